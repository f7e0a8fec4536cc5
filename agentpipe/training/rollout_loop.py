"""Rollouts: a trainer's loop from prompts to batches of groups, exact across kills."""

from __future__ import annotations

import logging
import math
import time
from typing import TYPE_CHECKING, Any, Self

from agentpipe.core.arguments import check_seconds, whole
from agentpipe.errors import ConfigError, ResultTimeout
from agentpipe.sending.groups import REPAIRS, GroupPlan
from agentpipe.sending.patience import FULL_PAUSE_S
from agentpipe.settings import Settings
from agentpipe.training.group_choice import refuse_flat
from agentpipe.training.loop_connections import LoopConnections
from agentpipe.training.loop_report import LoopProgress
from agentpipe.training.loop_run import LoopRun, only_collection
from agentpipe.training.obstacles import uses_none
from agentpipe.training.prompt_feed import PromptFeed
from agentpipe.training.prompt_source import PromptSource
from agentpipe.training.rollout_batch import RolloutBatch
from agentpipe.training.rollout_group import varied
from agentpipe.training.shard import WHOLE, Shard
from agentpipe.training.states import check_loop_state
from agentpipe.training.wait_warnings import WaitWarnings

if TYPE_CHECKING:
    import os
    from collections import Counter
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from agentpipe.training.policy import Policy
    from agentpipe.training.rollout_group import RolloutGroup

State = dict[str, Any]

log = logging.getLogger(__name__)


class Rollouts:
    """Iterates over batches of groups and sends prompts ahead; one trainer at a time per name.

    ::

        with Rollouts.open("collection.yaml", prompts, n=8, batch=32, max_staleness=1) as rollouts:
            for batch in rollouts:
                trainer.step(batch.samples())
                save(rollouts.state_dict())

    A group that is short, flat or stale is replaced by the next prompt's group. After the trainer
    was killed, load the last saved state: groups that are out are not sent again, and what came
    after that state comes again. Without a state everything starts over, but nothing is paid twice
    while the broker remembers the ids (``AGENTPIPE_RETENTION_S``).

    Attributes:
        step: The number of the next batch.
    """

    def __init__(
        self,
        feed: PromptFeed,
        connections: LoopConnections,
        *,
        name: str,
        batch: int,
        shard: Shard = WHOLE,
        timeout_s: float | None = None,
    ) -> None:
        """Use this feed, and these connections of the loop, which ``close`` closes."""
        self._shard, self._timeout_s = shard, math.inf if timeout_s is None else timeout_s
        self._feed, self._connections, self._name = feed, connections, name
        self._groups, self._lease = connections.groups, connections.lease
        # Without a limit of staleness, one batch is sent ahead of the one in use.
        ahead = 1 if self.max_staleness is None else self.max_staleness
        self._batch, self._room = batch, (ahead + 1) * batch
        self._over = 0  # Groups that were over when the loaded state was saved.
        self._given = 0  # Groups yielded since then.
        self._begun: list[RolloutGroup] = []  # An incomplete batch.
        self._warnings = WaitWarnings(name)
        self._has_begun = self._is_closed = self._is_useless = False
        self.step = 0
        self._groups.state_dict()  # From now on, nothing is committed that is in no state.

    @classmethod
    def open(
        cls,
        collection: str | os.PathLike[str],
        prompts: Iterable[Any],
        *,
        n: int,
        batch: int,
        name: str = "",
        settings: Settings | None = None,
        policy: str | None = None,
        max_staleness: int | None = None,
        spares: int = 0,
        repairs: int = REPAIRS,
        need: int | None = None,
        vary_seed: bool = True,
        min_good: int | None = None,
        keep: Callable[[RolloutGroup], bool] = varied,
        timeout_s: float | None = None,
        task_of: Callable[[Any], Any] | None = None,
        shard: tuple[int, int] = (0, 1),
    ) -> Self:
        """A loop over ``prompts`` with the agents of ``collection``; close it, or use ``with``.

        Args:
            collection: The path of a YAML file with one collection.
            prompts: Tasks, as ``Dispatcher.send`` takes them: always the same, in the same order.
                If it is a loader with ``state_dict`` and ``load_state_dict``, its state is saved
                with the loop's. A list that it yields is a batch of prompts.
            n: Samples per group.
            batch: Groups per batch of this trainer.
            name: Name of this experiment: it prefixes the ids of its groups and names its reading
                group. A new experiment needs a new name. Default: the collection's name.
            settings: Where broker and sink are; default: from the environment.
            policy: The policy whose versions measure the age of a group; default: the
                collection's.
            max_staleness: Groups whose oldest version is further behind are dropped; default: the
                policy's. The loop sends this many batches ahead of the one in use, or one if there
                is no limit.
            spares: Samples beyond ``n``: once ``need`` are good, the others are cancelled.
            repairs: How many members that ended without judgement are sent again.
            need: How many good members a group needs; default: ``n``.
            vary_seed: Give each member its own seed.
            min_good: Also yield short or cancelled groups with at least this many good members.
            keep: Which groups to yield; default: those whose rewards differ.
            timeout_s: How long to wait for a group; None waits forever.
            task_of: Makes the task of a prompt, always the same; default: the prompt is a task.
            shard: This trainer's number, and the number of trainers (ranks): each has its own part
                of the prompts, its own groups and its own state.

        Raises:
            ConfigError: The collection, a number or the policy is invalid.
            LoopTaken: Another live trainer has this name.
            Unreachable: Broker or sink does not answer.
        """
        check_seconds("timeout_s", timeout_s)
        part, size = Shard.of(shard), whole("batch", batch, 1)
        source = PromptSource(prompts, task_of=task_of, shard=part)
        plan = GroupPlan.of(n, spares=spares, repairs=repairs, need=need, vary_seed=vary_seed)
        refuse_flat(plan, keep)
        settings = Settings.given(settings)
        only = only_collection(collection, settings)
        run = LoopRun.of(only, name, shard=part, policy=policy, batch=size)
        reads: State = {"timeout_s": timeout_s, "policy": run.facts.policy}
        reads |= {"max_staleness": max_staleness, "min_good": min_good, "keep": keep}
        connections = LoopConnections.open(run, settings, **reads)
        dispatcher, hold = connections.dispatcher, connections.lease.hold
        feed = PromptFeed(dispatcher, run.facts, source, plan, hold=hold)
        return cls(feed, connections, name=run.name, batch=size, shard=part, timeout_s=timeout_s)

    @property
    def policy(self) -> Policy | None:
        """The policy that the groups follow, to publish the next version; None without one."""
        return self._groups.policy

    @property
    def max_staleness(self) -> int | None:
        """How many policy versions a group may be behind; None without a limit."""
        return self._groups.max_staleness

    @property
    def counts(self) -> Counter[str]:
        """Groups by fate, since this loop was opened; see ``GroupStream``."""
        return self._groups.counts

    def __iter__(self) -> Iterator[RolloutBatch]:
        """Iterate until the groups of all prompts are over; the last batch can be smaller.

        Waits for a broker or sink that does not answer, and logs that.

        Raises:
            ResultTimeout: No group came for ``timeout_s``; iterating again continues.
            TaskError: A prompt is invalid.
            LoopTaken: Another trainer has the loop: this one was stopped and replaced.
        """
        while found := self._next_batch():
            batch = RolloutBatch(self.step, tuple(found))
            self.step += 1  # A state saved while the batch is in use includes it.
            self._note(waits=False)
            yield batch

    def _next_batch(self) -> list[RolloutGroup]:
        while len(self._begun) < self._batch and (group := self._next(held=len(self._begun))):
            self._begun.append(group)
        found, self._begun = self._begun, []
        return found

    def groups(self) -> Iterator[RolloutGroup]:
        """Iterate over the same groups one by one; each counts as used when the next is requested.

        Raises:
            ResultTimeout: No group came for ``timeout_s``; a further call continues.
            TaskError: A prompt is invalid.
            LoopTaken: Another trainer has the loop.
        """
        while self._begun:
            yield self._begun.pop(0)
        while (group := self._next()) is not None:
            yield group

    def _next(self, held: int = 0) -> RolloutGroup | None:
        """The next group; None once the groups of all prompts are over."""
        self._begin()
        until = time.monotonic() + self._timeout_s
        while self._send(held, until):
            self._lease.refuse_if_taken()
            self._note(waits=True)
            self._look_for_obstacles()
            try:
                group = next(self._groups.ends())
            except StopIteration:
                raise ResultTimeout(f"{self._name}: {self._late()}") from None
            if group is not None:
                self._lease.refuse_if_taken()
                self._given += 1
                self._feed.over(self._groups.is_over)
                self._note(waits=False)
                self._warnings.end_wait()
                return group
            self._warn_if_useless(self._batch)
            if time.monotonic() >= until:  # Only other loops' groups arrive.
                raise ResultTimeout(f"{self._name}: {self._late()}")
        self._note(waits=False)
        if self._feed.position:
            self._warn_if_useless(1)
        else:
            log.warning("the loop %r was given no prompt", self._name)
        return None

    def _begin(self) -> None:
        if self._is_closed:
            text = "is closed: open it again, then load its state"
            raise ConfigError(f"the loop {self._name!r} {text}")
        self._has_begun = True

    def _warn_if_useless(self, number: int) -> None:
        """Log, once, that none of so many groups that have ended was of use."""
        if self._groups.dropped >= number and not (self.step or self._given or self._is_useless):
            self._is_useless = True
            text = "the loop %r has given no group to train on since it was opened: %s"
            log.warning(text, self._name, uses_none(self.counts, self._feed.run))

    def _send(self, held: int, until: float) -> bool:
        """Send prompts while there is room beside ``held`` groups; whether any group is out."""
        self._feed.send(self._room - held - self._out, wait=False)
        # The queues can be full of other tasks. Groups sent after the loaded state can be over
        # before they are sent again; until then ``_out`` is too low.
        while self._feed.has_more and self._out <= 0:
            if time.monotonic() >= until:
                raise ResultTimeout(f"{self._name}: {self._late()}")
            if not math.isinf(until):
                time.sleep(min(FULL_PAUSE_S, self._timeout_s))
            self._feed.send(1, wait=math.isinf(until))
        return self._out > 0

    @property
    def _out(self) -> int:
        """How many groups were sent and are not over."""
        return self._feed.position - self._over_now

    @property
    def _over_now(self) -> int:
        """How many groups are over: yielded, or dropped and replaced."""
        return self._over + self._given + self._groups.dropped

    def _look_for_obstacles(self) -> None:
        """If the wait takes long, log why, and send what the broker may have lost."""
        if self._warnings.is_due(self._lease.report.waits_s):
            name = None if self.policy is None else self.policy.name
            self._warnings.log(self._feed.obstacles(name))
            self._feed.send_lost()

    def _note(self, *, waits: bool) -> None:
        """Update the loop's report for observers elsewhere."""
        groups, out = self._groups, max(0, self._out)
        wasted, counts = groups.dropped, dict(groups.counts)
        sent, used = self._feed.position, self._given
        progress = LoopProgress(self.step, sent, out, used, wasted, counts, waits=waits)
        self._lease.report.note(progress)

    def _late(self) -> str:
        return (
            f"no group came in time, {self._out} are out: `agentpipe status` shows whether workers "
            f"run. Where an earlier loop has used the name {self._name!r}, load its state or "
            "choose another name"
        )

    def state_dict(self, *, unused: Sequence[str] = ()) -> State:
        """What was sent and used, including the current batch; JSON. Save it after each step.

        ``unused`` names groups that were yielded but not trained on yet.

        Raises:
            LoopTaken: Another trainer has the loop; only its state is valid.
            ConfigError: ``unused`` names another group, such as one of an earlier state.
        """
        self._lease.refuse_if_taken()
        left = [*unused, *(group.group_id for group in self._begun)]
        groups = self._groups.state_dict(unused=left)
        self._feed.over(self._groups.is_over)
        return {
            "version": 1,
            "name": self._name,
            "step": self.step,
            **self._feed.state_dict(),
            "over": self._over_now - len(set(left)),
            "policy_version": None if self.policy is None else self.policy.version,
            "groups": groups,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue after a state of this loop; call before iterating.

        Sets the policy back to the state's version; see ``Policy.recover``. An error loads nothing.

        Raises:
            ConfigError: It is not a state of this loop, or the loop has begun or loaded one before.
        """
        check_loop_state(state, self._name)
        if self._has_begun:
            text = "has begun, or has loaded a state: open it again, then load one"
            raise ConfigError(f"the loop {self._name!r} {text}")
        self._feed.refuse_other(state)
        version, is_first = state["policy_version"], self._shard.number == 0
        # With several trainers, one sets the policy for all.
        if self.policy is not None and version is not None and is_first:
            # Groups that have ended since then come again: no new ones begin in their place.
            self.policy.recover(version, trained=None)
        self._feed.load_state_dict(state)
        self._groups.load_state_dict(state["groups"])
        self.step, self._over = state["step"], state["over"]
        self._has_begun = True  # Of two states, groups that only one has used would be lost.

    def close(self) -> None:
        """Close its connections; groups that are out keep running, and a later start reads them.

        Does nothing in a fork, where all of it belongs to the parent.
        """
        self._is_closed = True
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

"""GrpoRollouts: complete groups of rollouts as the rows of TRL's ``GRPOTrainer``."""

from __future__ import annotations

import logging
import os
import re
from collections import Counter
from dataclasses import dataclass
from itertools import groupby
from typing import TYPE_CHECKING, Any, Self

from agentpipe.core.arguments import check_function, whole
from agentpipe.core.rollout import REQUIRE
from agentpipe.core.run_names import prefix_of
from agentpipe.errors import ConfigError, ResultTimeout
from agentpipe.rollouts import samples
from agentpipe.sending.groups import REPAIRS, GroupPlan
from agentpipe.settings import Settings
from agentpipe.training.loop_connections import LoopConnections
from agentpipe.training.loop_report import LoopFacts, LoopProgress
from agentpipe.training.loop_run import LoopRun, only_collection, refuse_name
from agentpipe.training.shard import rank_in
from agentpipe.training.task_digest import digest_of
from agentpipe.trl.rows import GrpoRow, masked_row, row_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from agentpipe.config.collection import Collection
    from agentpipe.training.rollout_group import RolloutGroup

# The step in a group's id, after the common prefix.
_STEP = re.compile(r"[te](\d+)\.")

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Asked:
    """A group that a step needs, with ``size`` rows."""

    group_id: str
    task: dict[str, Any]
    size: int


class GrpoRollouts:
    """A ``rollout_func`` for TRL's ``GRPOTrainer``: each prompt of a step is a group of runs.

    ::

        with GrpoRollouts.open("collection.yaml", task_of, name="first") as rollouts:
            GRPOTrainer(model, reward_funcs=agent_reward, rollout_func=rollouts, ...).train()

    Token ids and logprobs are those that the serving engine sampled. A run without a trustworthy
    reward is sent again while repairs last; after that its row is masked and its reward is None,
    which TRL counts as no reward at all.

    A group is named after the step that requests it. A trainer that continues from its checkpoint
    therefore gets the groups that were sent before, and they are not paid twice while the broker
    remembers their ids (``AGENTPIPE_RETENTION_S``).

    Attributes:
        counts: Rows by kind: ``good``, ``masked``, and ``segments``: segments of good runs that
            are in no row, because TRL takes one row per run.
    """

    def __init__(
        self,
        connections: LoopConnections,
        *,
        collection: str,
        task_of: Callable[[Any], Any],
        prefix: str,
        **options: Any,
    ) -> None:
        """Use these connections of the loop, which ``close`` closes.

        ``options`` are passed to ``GroupPlan.of``.
        """
        self._connections, self._dispatcher = connections, connections.dispatcher
        self._groups, self._lease = connections.groups, connections.lease
        self._sent = self._used = 0
        self._collection, self._task_of = collection, task_of
        self._prefix, self._options = prefix, options
        self._early: dict[str, RolloutGroup] = {}
        self._calls: Counter[str] = Counter()
        self.counts: Counter[str] = Counter()
        self._groups.state_dict()  # Nothing is committed, so a later start reads everything again.

    @classmethod
    def open(
        cls,
        collection: str | os.PathLike[str],
        task_of: Callable[[Any], Any],
        *,
        name: str = "",
        settings: Settings | None = None,
        spares: int = 0,
        repairs: int = REPAIRS,
        vary_seed: bool = True,
        timeout_s: float | None = None,
        rank: int | None = None,
    ) -> Self:
        """Rollouts by the agents of ``collection``; close it, or use ``with``.

        Args:
            collection: The path of a YAML file with one collection, which requires token ids.
            task_of: Makes the task of a prompt in TRL's dataset: a dict as ``Dispatcher.send``
                takes it, with its evaluators and without ``task_id``; always the same for the same
                prompt.
            name: Name of this experiment: it prefixes the ids of its groups. A new experiment needs
                a new name; a continued one keeps its name. Default: the collection's name.
            settings: Where broker and sink are; default: from the environment.
            spares: Samples beyond those that TRL requests: the slowest are cancelled.
            repairs: How many members of a group that ended without judgement are sent again.
            vary_seed: Give each member its own seed.
            timeout_s: How long to wait for the next result; None waits forever.
            rank: The number of this process among the trainers; default: ``RANK``, or 0.

        Raises:
            ConfigError: The collection does not require token ids, or a number or URL is invalid.
            LoopTaken: Another live trainer has this name and rank.
            Unreachable: A server does not answer.
        """
        check_function("task_of", task_of)
        settings = Settings.given(settings)
        number = rank_in(os.environ) if rank is None else whole("rank", rank)
        options: dict[str, Any] = {"spares": spares, "repairs": repairs, "vary_seed": vary_seed}
        GroupPlan.of(1, need=None, **options)  # Refuse what is wrong before anything is opened.
        run = _run_of(_that_records(collection, settings), name, number)
        reads: dict[str, Any] = {"timeout_s": timeout_s, "min_good": 0, "keep": lambda _: True}
        connections = LoopConnections.open(run, settings, **reads)
        options |= {"collection": run.facts.collection, "prefix": run.facts.prefix}
        return cls(connections, task_of=task_of, **options)

    def __call__(self, prompts: Sequence[Any], trainer: Any) -> dict[str, list[Any]]:
        """One row per prompt; TRL repeats a prompt once for each sample it wants.

        Returns:
            ``prompt_ids``, ``completion_ids``, ``logprobs`` and ``env_mask`` for TRL, and
            ``agent_reward`` and ``agent_task_id`` for reward functions.

        Raises:
            TaskError: ``task_of`` returned an invalid task.
            ResultTimeout: No result came for ``timeout_s``, or a group was lost.
            LoopTaken: Another trainer has the loop: this one was stopped and replaced.
        """
        self._lease.refuse_if_taken()
        asked = list(self._asked(prompts, trainer))
        self._send(asked)
        groups = self._wait(asked)
        pad = _pad_id(trainer.processing_class)
        rows = [row for it in asked for row in self._rows(groups[it.group_id], it.size, pad)]
        return {
            "prompt_ids": [row.prompt_ids for row in rows],
            "completion_ids": [row.completion_ids for row in rows],
            "logprobs": [row.logprobs for row in rows],
            "env_mask": [row.env_mask for row in rows],
            "agent_reward": [row.reward for row in rows],
            "agent_task_id": [row.task_id for row in rows],
        }

    def _asked(self, prompts: Sequence[Any], trainer: Any) -> Iterator[_Asked]:
        trains = bool(trainer.model.training)
        most = trainer.num_generations if trains else trainer.num_generations_eval
        step = int(trainer.state.global_step)
        self._early = {it: group for it, group in self._early.items() if self._step_of(it) >= step}
        place = f"{self._prefix}{'t' if trains else 'e'}{step:06}."
        call = self._calls[place]
        self._calls = Counter({place: call + 1}) if trains else self._calls + Counter([place])
        for number, (prompt, size) in enumerate(_repeated(prompts, most)):
            task = self._task(prompt)
            yield _Asked(f"{place}{call}.{number}-{digest_of(task)}", task, size)

    def _task(self, prompt: Any) -> dict[str, Any]:
        task = self._task_of(prompt)
        if not isinstance(task, dict) or "task_id" in task:
            raise ConfigError(f"task_of: expected a dict without task_id, got {task!r:.80}")
        return task

    def _send(self, asked: Iterable[_Asked]) -> None:
        for size, same in groupby(sorted(asked, key=_size), key=_size):
            tasks = [{**it.task, "task_id": it.group_id} for it in same]
            plan = GroupPlan.of(size, need=size, **self._options)
            groups = (self._collection, tasks, plan)
            send = self._dispatcher.send_group_batches
            for sent in send(*groups, on_full="wait", hold=self._lease.hold):
                if sent.duplicates:
                    log.info("%d tasks were sent before: they are not run again", sent.duplicates)
            self._sent += len(tasks)

    def _wait(self, asked: Iterable[_Asked]) -> dict[str, RolloutGroup]:
        wanted = {it.group_id for it in asked}
        found = {it: self._early.pop(it) for it in wanted & self._early.keys()}
        step = min(map(self._step_of, wanted), default=0)
        while left := wanted - found.keys():
            self._note(step, len(left))
            self._lease.refuse_if_taken()
            try:
                group = next(self._groups.ends())
            except StopIteration:
                raise ResultTimeout(_late(left)) from None
            if group is None:
                _refuse_lost(left, self._groups.last_lost)
            elif group.group_id in wanted:
                found[group.group_id] = group
            elif self._step_of(group.group_id) >= step:  # From before a restart, of a later step.
                self._early[group.group_id] = group
        self._used += len(found)
        self._note(step, 0)
        return found

    def _note(self, step: int, left: int) -> None:
        """Update the loop's report for observers elsewhere."""
        wasted, counts = self._groups.dropped, dict(self._groups.counts)
        progress = (step, self._sent, left, self._used, wasted, counts)
        self._lease.report.note(LoopProgress(*progress, waits=left > 0))

    def _step_of(self, group_id: str) -> int:
        found = _STEP.match(group_id.removeprefix(self._prefix))
        return int(found[1]) if found else -1

    def _rows(self, group: RolloutGroup, size: int, pad: int) -> list[GrpoRow]:
        usable = {it.task_id: found for it in group.goods if (found := samples(it))}
        taken = [*usable.values()][:size]
        rows = [row_of(found, pad) for found in taken]
        missing = size - len(rows)
        left = [it.task_id for it in group.results if it.task_id not in usable] + [""] * missing
        segments = sum(len(found) - 1 for found in taken)
        self.counts += Counter({"good": len(rows), "masked": missing, "segments": segments})
        if missing:
            text = "group %s: %d of %d rows are masked: no reward, or no exact token ids: %s"
            log.warning(text, group.group_id, missing, size, ", ".join(left[:missing]))
        prompt = rows[0].prompt_ids if rows else [pad]
        return [*rows, *(masked_row(task_id, prompt, None, pad) for task_id in left[:missing])]

    def close(self) -> None:
        """Close its connections; groups that are out keep running, and a later start reads them.

        Does nothing in a fork, where all of it belongs to the parent.
        """
        self._connections.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def agent_reward(*, agent_reward: list[float | None], **_: Any) -> list[float | None]:
    """A reward function for TRL: each run's reward by its evaluators; None for masked rows."""
    return agent_reward


def _run_of(only: Collection, name: str, rank: int) -> LoopRun:
    """The loop of a rank; the ids of its groups begin with its number."""
    run = name or only.name
    refuse_name(run)
    policy = only.policy.name if only.policy else None
    facts = LoopFacts(run, f"{prefix_of(run)}{rank}.", only.name, policy)
    return LoopRun(f"{run}-{rank}", only, facts)


def _that_records(path: str | os.PathLike[str], settings: Settings) -> Collection:
    only = only_collection(path, settings)
    if only.record_tokens != REQUIRE:
        raise ConfigError(f"{path}: a trainer needs token ids: add `record: {{tokens: require}}`")
    return only


def _repeated(prompts: Iterable[Any], most: int) -> Iterator[tuple[Any, int]]:
    """Each prompt with its number of consecutive repeats, split into at most ``most`` each."""
    for prompt, same in groupby(prompts):
        left = len(list(same))
        while left:
            yield prompt, min(left, most)
            left -= min(left, most)


def _late(left: set[str]) -> str:
    return (
        f"{len(left)} groups did not come in time, such as {min(left)}: `agentpipe status` shows "
        "whether workers run"
    )


def _refuse_lost(left: set[str], lost: Iterable[str]) -> None:
    if gone := left & set(lost):
        raise ResultTimeout(f"group {min(gone)} has ended, but a Result of it never came")


def _size(asked: _Asked) -> int:
    return asked.size


def _pad_id(processing_class: Any) -> int:
    tokenizer = getattr(processing_class, "tokenizer", processing_class)
    return tokenizer.pad_token_id or 0

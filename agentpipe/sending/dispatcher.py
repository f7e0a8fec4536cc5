"""Dispatcher: distributes a collection's tasks over its agents, round-robin and bounded.

Cursor, bound and append are one atomic step in the store: any number of senders share one
round-robin, and none can overfill a queue.
"""

from __future__ import annotations

import time
from functools import partial
from os import PathLike
from typing import TYPE_CHECKING, Any, Literal, Self

from agentpipe.brokers.capabilities import (
    CountsGroups,
    KeepsBudgets,
    KeepsPolicies,
    KeepsRuns,
    PacesOffers,
    require,
)
from agentpipe.brokers.records import Admission, Queue
from agentpipe.config.task_rules import NO_RULES
from agentpipe.core.budgets import NO_BUDGET
from agentpipe.core.closing import closed_on_error
from agentpipe.errors import ConfigError, QueueFull, Unreachable
from agentpipe.sending.admission import admit
from agentpipe.sending.batches import batches_of, in_pauses, is_full
from agentpipe.sending.groups import COUNT_GROUPS, REPAIRS, GroupPlan, offer_portions
from agentpipe.sending.handle import Handle
from agentpipe.sending.one_ahead import Pace, one_ahead
from agentpipe.sending.patience import FULL_PAUSE_S, is_patient, tried, until_it_answers
from agentpipe.sending.pending import Pending
from agentpipe.sending.plain_queues import ActorOptions
from agentpipe.sending.refused_results import refused_results
from agentpipe.sending.result_reader import ResultReader
from agentpipe.sending.sent import Sent, sent_of
from agentpipe.sending.source import source_of

if TYPE_CHECKING:
    from collections.abc import Collection as Ids
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.dead_letter import DeadLetter
    from agentpipe.brokers.records import Offer
    from agentpipe.brokers.statistics import Stats
    from agentpipe.config.collection import Collection
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.core.budgets import Budget
    from agentpipe.core.loop_holds import LoopHold
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.settings import Settings


class Dispatcher(ActorOptions):
    """Sends to collections; as a middleware, it adds our options for plain actors.

    ::

        with Dispatcher.open(load("collection.yaml"), settings) as dispatcher:
            sent = dispatcher.send("adder", {"question": "2 and 2?"})
            answer = sent.result(timeout_s=60)
    """

    def __init__(self, store: Store, results: ResultReader | None = None) -> None:
        """Send to ``store``; without ``results``, a handle is only an id."""
        self._store, self._results = store, results
        self._rules: dict[str, TaskRules] = {}
        self._hashes: dict[str, str] = {}

    @classmethod
    def open(
        cls, collections: Iterable[Collection], settings: Settings, *, results: bool = True
    ) -> Self:
        """A dispatcher for a process that sends; close it, or use it in a ``with``.

        Args:
            collections: What ``load`` returns.
            settings: Where broker and sink are.
            results: Whether its handles have results. A stream on a server is then read from the
                first ``send`` on.

        Raises:
            ConfigError: The broker's URL is wrong, or ``collections`` is the path of a file.
            Unreachable: Nothing answers there.
        """
        from agentpipe.brokers import open_store

        if isinstance(collections, str | PathLike):
            raise ConfigError(f"expected collections, got a path: load({str(collections)!r})")
        store = open_store(settings)
        dispatcher = cls(store, ResultReader(settings, store) if results else None)
        with closed_on_error(dispatcher):
            dispatcher.declare(collections)
        return dispatcher

    def declare(self, collections: Iterable[Collection], *, serves: bool = False) -> None:
        """Declare each collection's agents and limits in the store; a worker ``serves`` them."""
        collections = tuple(collections)
        sources = {each.name: source_of(each, serves=serves) for each in collections}
        self._rules |= {each.name: each.task_rules for each in collections}
        self._hashes |= {name: it.fingerprint for name, it in sources.items() if it}
        if any(each.budget for each in collections):
            require(self._store, KeepsBudgets, "keep budgets: remove the key `budget`")
        if any(each.policy for each in collections):
            require(self._store, KeepsPolicies, "keep policies: remove the key `policy`")
        self._store.declare(
            [
                Queue(
                    agent.queue,
                    each.name,
                    each.max_queue_size,
                    each.concurrency,
                    each.max_crashes,
                    agent.concurrency_group,
                    agent.concurrency_group_limit,
                    sources[each.name],
                    each.budget,
                    each.policy,
                )
                for each in collections
                for agent in each.agents
            ]
        )

    def set_budget(self, run: str, budget: Budget) -> None:
        """Add these caps to a run's caps.

        Raises:
            ConfigError: This broker keeps no budgets.
        """
        budgets = require(self._store, KeepsBudgets, "keep budgets")
        found = {it.name: it.cap for it in budgets.spendings() if it.kind == "run"}
        budgets.set_budget("run", run, found.get(run, NO_BUDGET).with_caps_of(budget))

    def hash_of(self, collection: str) -> str:
        """The fingerprint of a declared collection; empty if unknown."""
        return self._hashes.get(collection, "")

    def rules_of(self, collection: str) -> TaskRules:
        """What a declared collection offers to its tasks, for ``admit``."""
        return self._rules.get(collection, NO_RULES)

    def send(self, collection: str, task: Any) -> Handle:
        """Send one task; return its id, as a handle of its result, also for a duplicate.

        Raises:
            TaskError: The task is invalid.
            QueueFull: Every agent's queue is at its bound.
        """
        admitted = admit(task, self.rules_of(collection))
        pending = self._expected(admitted)
        sent = self.send_many(collection, [admitted])
        if sent.refused:
            raise QueueFull(collection, sent.depth, sent.bound)
        if sent.duplicates:
            return self.handle(admitted.task_id)
        if self._results is not None:
            self._results.accepted(pending)
        return Handle(pending, self._results)

    def handle(self, task_id: str) -> Handle:
        """The handle of a task that any process sent before.

        It resolves to the stored result of that id, or to the next one. A stream on a server is
        read from its beginning for that, once for all handles awaited together.
        """
        pending = self._results.known(task_id) if self._results else Pending(task_id)
        return Handle(pending, self._results)

    def _expected(self, admitted: AdmittedTask) -> Pending:
        task_id = admitted.task_id
        if self._results is None:
            return Pending(task_id)
        return self._results.expect(task_id, named=admitted.named)

    def refused_results(self, task_ids: Ids[str]) -> Iterator[DeadLetter]:
        """Yield the results of these tasks that the broker keeps because the sink refuses them."""
        return refused_results(self._store, task_ids)

    def send_many(
        self,
        collection: str,
        tasks: Iterable[Any],
        *,
        on_full: Literal["refuse", "wait"] = "refuse",
        round_robin: bool = True,
    ) -> Sent:
        """Send tasks in order, many per round trip.

        ``tasks`` is read as needed, a batch ahead, and can be endless. ``on_full="wait"`` waits for
        room, and for a store that does not answer. Without ``round_robin``, ``collection`` is one
        agent's queue.

        Raises:
            TaskError: A task is invalid; the batches before it are accepted.
            Unreachable: The store does not answer; the batches before are accepted.
        """
        batches = self.send_batches(collection, tasks, on_full=on_full, round_robin=round_robin)
        return Sent.of(list(batches))

    def send_batches(
        self,
        collection: str,
        tasks: Iterable[Any],
        *,
        on_full: Literal["refuse", "wait"] = "refuse",
        round_robin: bool = True,
    ) -> Iterator[Sent]:
        """Like ``send_many``, with the outcome of each round trip."""
        waiting = is_patient(on_full)
        offer = partial(self._store.offer, collection, round_robin=round_robin)
        offer_at_pace = partial(self._offer_at_pace, collection, round_robin=round_robin)
        rules, config_hash, pace = self.rules_of(collection), self.hash_of(collection), Pace()
        made = (admit(task, rules).offer(config_hash) for task in in_pauses(tasks, pace))

        def once(offers: Sequence[Offer]) -> Admission | Unreachable:
            # This can run in a thread, which must not wait: an interrupt would not end the wait.
            ask = partial(offer_at_pace, offers, pace=pace)
            return tried(ask) if waiting else ask()

        for offers, found in one_ahead(once, self._packed(batches_of(made)), is_full, pace):
            admission = until_it_answers(partial(offer, offers), found)
            if not admission.bound and "refused" in admission.verdicts:
                raise ConfigError(f"no agent serves collection {collection!r}: declare it first")
            yield sent_of(offers, admission, count_refused=not waiting)
            refused = _refused(offers, admission)
            while waiting and refused:
                time.sleep(FULL_PAUSE_S)
                later = until_it_answers(partial(offer, refused))
                yield sent_of(refused, later, count_refused=False)
                refused = _refused(refused, later)

    def send_group(self, collection: str, task: Any, n: int = 8, **options: Any) -> Sent:
        """Send ``n`` samples of one task, all or none; see ``send_groups``."""
        return self.send_groups(collection, [task], n, **options)

    def send_groups(
        self,
        collection: str,
        tasks: Iterable[Any],
        n: int = 8,
        *,
        spares: int = 0,
        repairs: int = REPAIRS,
        need: int | None = None,
        vary_seed: bool = True,
        on_full: Literal["refuse", "wait"] = "refuse",
    ) -> Sent:
        """Send ``n`` samples and ``spares`` of each task: a group, accepted whole or not at all.

        The group's id is its task's, or a new one; members are ``{id}/{index}``. Once ``need``
        members (default ``n``) are good, the broker cancels the others. It replaces up to
        ``repairs`` members that ended without judgement (infra_error, eval_error, crashed). A group
        that was sent before is a duplicate. ``refused`` counts tasks, of whole groups.

        Raises:
            ConfigError: This broker counts no groups, or a group is larger than all queues.
            TaskError: A task is invalid; the groups before its batch are accepted.
            Unreachable: The store does not answer; the groups before are accepted. With
                ``on_full="wait"`` the call waits for the store, and for room.
        """
        plan = GroupPlan.of(n, spares=spares, repairs=repairs, need=need, vary_seed=vary_seed)
        return Sent.of(list(self.send_group_batches(collection, tasks, plan, on_full=on_full)))

    def send_group_batches(
        self,
        collection: str,
        tasks: Iterable[Any],
        plan: GroupPlan,
        *,
        on_full: Literal["refuse", "wait"] = "refuse",
        hold: LoopHold | None = None,
    ) -> Iterator[Sent]:
        """Like ``send_groups``, with the outcome of each round trip; ``hold``: a held loop."""
        store = require(self._store, CountsGroups, COUNT_GROUPS)
        rules, config_hash = self.rules_of(collection), self.hash_of(collection)
        groups = (plan.group_of(admit(task, rules), config_hash) for task in tasks)
        patient = is_patient(on_full)
        return offer_portions(store, collection, groups, patient=patient, hold=hold)

    def _offer_at_pace(
        self, collection: str, offers: Sequence[Offer], *, round_robin: bool, pace: Pace
    ) -> Admission:
        """Offer while the next batch is made; the store sets the pace if it can."""
        store = self._store
        if isinstance(store, PacesOffers):
            return store.offer_at_pace(collection, offers, round_robin=round_robin, pace=pace)
        pace.end()
        return store.offer(collection, offers, round_robin=round_robin)

    def _packed(self, batches: Iterator[Sequence[Offer]]) -> Iterator[Sequence[Offer]]:
        return map(self._store.pack, batches) if isinstance(self._store, PacesOffers) else batches

    def begin_run(self, name: str, record: bytes) -> bytes | None:
        """Keep the record of a run unless it already has one; return the record it has.

        Returns None if this broker keeps no runs. Tasks sent before this call are not counted for
        the run.
        """
        store = self._store
        return store.begin_run(name, record) if isinstance(store, KeepsRuns) else None

    def stats(self) -> Stats:
        """A snapshot of the store."""
        return self._store.stats()

    def close(self) -> None:
        """Close the store; not needed for a broker's dispatcher: the broker closes it."""
        if self._results is not None:
            self._results.close()
        self._store.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _refused(offers: Sequence[Offer], admission: Admission) -> list[Offer]:
    pairs = zip(offers, admission.verdicts, strict=True)
    return [offer for offer, verdict in pairs if verdict == "refused"]

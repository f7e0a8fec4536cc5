"""Cancel tasks by id or by a filter, and purge waiting tasks."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import (
    CancelsTasks,
    CancelsUnread,
    ReadsTasks,
    TaskFilter,
    TaskQuery,
    TaskSeen,
    require,
)
from agentpipe.core.portions import portions_of
from agentpipe.core.run_names import is_of_run
from agentpipe.operations.names import refuse_unknown
from agentpipe.sending.purge import cancelled, collections_of, purge_queues, task_of
from agentpipe.sending.unclaimed import PAGE, unclaimed_pages

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentpipe.brokers.base import Store

    Collections = Mapping[str, str | None]

CANCEL_ROUNDS = 5
CANCEL = "cancel tasks"


@dataclass(frozen=True, slots=True)
class CancelReport:
    """The outcome of a cancellation, by id.

    Attributes:
        cancelled: Tasks that waited or were delayed; they have their Results now.
        told: Running tasks whose workers were signalled; a run that finishes first wins. If the
            broker cannot read its queues, also tasks that may wait: each is answered at its turn.
        settled: Tasks that already had their Results.
        unknown: Tasks that the broker does not know.
        marked: Those in ``told`` that no worker is known to run.
        is_unread: Whether the broker cannot read its queues.
    """

    cancelled: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()
    marked: tuple[str, ...] = ()
    is_unread: bool = False

    def __add__(self, other: CancelReport) -> CancelReport:
        return CancelReport(
            self.cancelled + other.cancelled,
            self.told + other.told,
            self.settled + other.settled,
            self.unknown + other.unknown,
            self.marked + other.marked,
            self.is_unread or other.is_unread,
        )

    @property
    def sentence(self) -> str:
        """What happened to the tasks, in numbers."""
        signalled = len(self.told) - len(self.marked)
        done = f"{len(self.cancelled):,} cancelled, {signalled:,} running ones signalled"
        return f"{done}; those that wait are answered at their turn" if self.is_unread else done

    def to_dict(self) -> dict[str, list[str]]:
        """The JSON of ``agentpipe cancel``."""
        names = ("cancelled", "told", "settled", "unknown")
        return {name: list(getattr(self, name)) for name in names}


def cancel(store: Store, task_ids: Sequence[str]) -> CancelReport:
    """Complete waiting tasks as ``cancelled``, and signal the workers of running ones."""
    ids = list(dict.fromkeys(task_ids))
    # Reading all queues takes longest, and running tasks do not need it.
    return _Canceller(store, cache(lambda: collections_of(store))).by_id(ids)


def cancel_matching(
    store: Store,
    *,
    collection: str | None = None,
    queue: str | None = None,
    group_id: str | None = None,
    run: str | None = None,
) -> CancelReport:
    """Cancel all tasks that match every given filter; without filters, all tasks.

    Raises:
        ConfigError: A name is unknown, or this broker cannot cancel tasks.
    """
    require(store, CancelsTasks, CANCEL)
    owners = collections_of(store)
    if collection is not None:
        refuse_unknown("collection", [collection], {it for it in owners.values() if it})
    if queue is not None:
        refuse_unknown("agent", [queue], owners.keys())
    wanted = {
        name: owner
        for name, owner in owners.items()
        if collection in (None, owner) and queue in (None, name)
    }
    tasks = TaskFilter(list(wanted), group_id, run)
    if isinstance(store, CancelsUnread):
        return CancelReport(told=tuple(store.cancel_matching(tasks)), is_unread=True)
    reads = require(store, ReadsTasks, CANCEL)
    return _Canceller(store, lambda: wanted).matching(reads, tasks)


def purge(store: Store, collection: str | None) -> int:
    """Answer every waiting or delayed task with ``cancelled``; returns how many.

    Running tasks finish. An interrupted purge is finished by the next one.
    """
    owners = collections_of(store)
    queues = None if collection is None else [it for it in owners if owners[it] == collection]
    return purge_queues(store, queues)


class _Canceller:
    """Cancels tasks of one store; ``collections`` gives each queue's collection."""

    def __init__(self, store: Store, collections: Callable[[], Collections]) -> None:
        self._cancels = require(store, CancelsTasks, CANCEL)
        self._reads = store if isinstance(store, ReadsTasks) else None
        self._collections = collections

    def by_id(self, ids: Sequence[str]) -> CancelReport:
        return sum(map(self._page, portions_of(ids, PAGE)), CancelReport())

    def _page(self, left: Sequence[str]) -> CancelReport:
        whole = CancelReport()
        # Between the two steps a task can move from running to waiting and back.
        for _ in range(CANCEL_ROUNDS):
            fates = dict(zip(left, self._cancels.cancel(left), strict=True))
            marked = tuple(it for it in left if fates[it] == "marked")
            told = tuple(it for it in left if fates[it] in ("signalled", "marked"))
            settled = tuple(it for it in left if fates[it] == "settled")
            answered = self._answer_unclaimed([it for it in left if it not in {*told, *settled}])
            whole += CancelReport(answered, told, settled, marked=marked, is_unread=bool(marked))
            done = {*told, *settled, *answered}
            left = [it for it in left if it not in done]
            if all(fates[it] == "unknown" for it in left):
                break
        return whole + CancelReport(unknown=tuple(left))

    def _answer_unclaimed(self, ids: Sequence[str]) -> tuple[str, ...]:
        if self._reads is None or not ids:
            return ()
        return self._answer(self._reads, self._reads.tasks(TaskQuery(task_ids=ids)))

    def _answer(self, reads: ReadsTasks, tasks: Sequence[TaskSeen]) -> tuple[str, ...]:
        """The ids of the tasks that could be answered."""
        answers = [cancelled(task, self._collections()) for task in tasks]
        done = reads.answer(answers) if answers else []
        return tuple(dict.fromkeys(it.task_id for it, was in zip(tasks, done, strict=True) if was))

    def matching(self, reads: ReadsTasks, wanted: TaskFilter) -> CancelReport:
        whole = self._unclaimed(reads, wanted)  # First, because they could start meanwhile.
        running = reads.tasks(TaskQuery("running", wanted.queues))
        told = set(whole.told)
        ids = [it.task_id for it in running if _fits(it, wanted)]
        whole += self.by_id([it for it in dict.fromkeys(ids) if it not in told])
        # A running task may have been released before it was signalled.
        return whole + self._unclaimed(reads, wanted)

    def _unclaimed(self, reads: ReadsTasks, wanted: TaskFilter) -> CancelReport:
        whole = CancelReport()
        for page in unclaimed_pages(reads, wanted.queues):
            found = [it for it in page if _fits(it, wanted)]
            answered = self._answer(reads, found)
            begun = [it.task_id for it in found if it.task_id not in set(answered)]
            whole += CancelReport(answered) + self.by_id(begun)
        return whole


def _fits(task: TaskSeen, wanted: TaskFilter) -> bool:
    if not is_of_run(task.task_id, wanted.run):
        return False
    if wanted.group_id is None:
        return True
    decoded = task_of(task)
    return decoded is not None and decoded.group_id == wanted.group_id

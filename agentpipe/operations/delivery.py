"""Operations: what an operator does to tasks that are already in the store."""

from __future__ import annotations

import socket
import uuid
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.base import Answer, Waiting, Worker
from agentpipe.core.did_you_mean import unknown
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError, FormatError, Problem
from agentpipe.worker.forwarder import drain
from agentpipe.worker.results import cancelled

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.sinks.base import Sink

    Collections = Callable[[], Mapping[str, str | None]]

PAGE = 500
CANCEL_ROUNDS = 5


def purge(store: Store, collection: str | None) -> int:
    """Answer every task that waits or is delayed with ``cancelled``; returns how many.

    Those that run are left to finish. An interrupted purge is finished by the next one.
    """
    collections = _collections(store)
    queues = (
        None if collection is None else [it for it in collections if collections[it] == collection]
    )
    purged, after = 0, -1
    while page := store.peek(queues, after, PAGE):
        after = page[-1].number
        purged += sum(store.answer([_cancelled(entry, collections) for entry in page]))
    return purged


@dataclass(frozen=True, slots=True)
class Paused:
    """What was paused or resumed.

    Attributes:
        agents: All that belong to the targets, by queue.
        still_paused: Of these, which are paused now.
    """

    agents: tuple[str, ...]
    still_paused: tuple[str, ...]


def pause(store: Store, targets: Sequence[str], *, paused: bool) -> Paused:
    """Have agents and whole collections left alone by all workers, or taken up again.

    Raises:
        ConfigError: Nothing of that name is known.
    """
    depths = store.stats().queues
    collections = {depth.collection for depth in depths if depth.collection}
    queues = {depth.queue for depth in depths}
    _refuse_unknown("collection or agent", targets, collections | queues)
    whole = [target for target in targets if target in collections]
    single = [target for target in targets if target in queues and target not in collections]
    store.pause(queues=single, collections=whole, paused=paused)
    now = [it for it in store.stats().queues if it.queue in single or it.collection in whole]
    left = tuple(depth.queue for depth in now if depth.paused)
    return Paused(tuple(depth.queue for depth in now), left)


def _refuse_unknown(what: str, targets: Sequence[str], known: Collection[str]) -> None:
    problems = [
        Problem(unknown(what, target, sorted(known), "on this broker", "see `agentpipe status`"))
        for target in targets
        if target not in known
    ]
    if problems:
        raise ConfigError(problems)


@dataclass(frozen=True, slots=True)
class Cancelled:
    """What became of tasks that were to be cancelled, by id.

    Attributes:
        cancelled: They waited or were delayed, and have their Results now.
        told: They run, and their workers end them; a run that finishes first wins.
        settled: They had their Results before.
        unknown: The broker does not know them.
    """

    cancelled: tuple[str, ...] = ()
    told: tuple[str, ...] = ()
    settled: tuple[str, ...] = ()
    unknown: tuple[str, ...] = ()

    def __add__(self, other: Cancelled) -> Cancelled:
        return Cancelled(
            self.cancelled + other.cancelled,
            self.told + other.told,
            self.settled + other.settled,
            self.unknown + other.unknown,
        )


def cancel(store: Store, task_ids: Sequence[str]) -> Cancelled:
    """Answer tasks that wait with ``cancelled``, and have the workers end those that run."""
    # A look at all queues takes longer than all else, and what runs needs none.
    return _cancel(store, list(dict.fromkeys(task_ids)), cache(lambda: _collections(store)))


def _collections(store: Store) -> dict[str, str | None]:
    return {depth.queue: depth.collection for depth in store.stats().queues}


def _cancel(store: Store, ids: list[str], collections: Collections) -> Cancelled:
    pages = (ids[first : first + PAGE] for first in range(0, len(ids), PAGE))
    return sum((_cancel_page(store, page, collections) for page in pages), Cancelled())


def _cancel_page(store: Store, left: list[str], collections: Collections) -> Cancelled:
    whole = Cancelled()
    # A task may move between the two steps, from running to waiting and back.
    for _ in range(CANCEL_ROUNDS):
        fates = dict(zip(left, store.cancel(left), strict=True))
        told = tuple(it for it in left if fates[it] == "told")
        settled = tuple(it for it in left if fates[it] == "settled")
        waiting = [it for it in left if fates[it] not in ("told", "settled")]
        cancelled = _answered(store, store.find(waiting) if waiting else [], collections)
        whole += Cancelled(tuple(cancelled), told, settled)
        done = {*told, *settled, *cancelled}
        left = [it for it in left if it not in done]
        if all(fates[it] == "unknown" for it in left):
            break
    return whole + Cancelled(unknown=tuple(left))


def _answered(
    store: Store, entries: Sequence[Waiting], collections: Collections
) -> dict[str, None]:
    """Those that could be answered, by their ids."""
    answers = [_cancelled(entry, collections()) for entry in entries]
    done = store.answer(answers) if answers else []
    return dict.fromkeys(it.task_id for it, was in zip(entries, done, strict=True) if was)


def cancel_where(
    store: Store,
    *,
    collection: str | None = None,
    queue: str | None = None,
    group_id: str | None = None,
) -> Cancelled:
    """Cancel all tasks that fit each filter that is given; without any, all there are.

    Raises:
        ConfigError: No collection or agent of that name is known.
    """
    owners = _collections(store)
    if collection is not None:
        _refuse_unknown("collection", [collection], {it for it in owners.values() if it})
    if queue is not None:
        _refuse_unknown("agent", [queue], owners.keys())
    wanted = {
        name: owner
        for name, owner in owners.items()
        if collection in (None, owner) and queue in (None, name)
    }
    whole = _cancel_waiting(store, wanted, group_id)  # First, for it could run meanwhile.
    running = [it.task_id for it in store.claimed(list(wanted)) if _is_of_group(it, group_id)]
    left = dict.fromkeys(it for it in running if it not in whole.told)
    whole += _cancel(store, list(left), lambda: wanted)
    # What ran at first may have gone back before it could be told.
    return whole + _cancel_waiting(store, wanted, group_id)


def _cancel_waiting(
    store: Store, owners: Mapping[str, str | None], group_id: str | None
) -> Cancelled:
    queues, whole, after = list(owners), Cancelled(), -1
    while page := store.peek(queues, after, PAGE):
        after = page[-1].number
        wanted = [it for it in page if _is_of_group(it, group_id)]
        cancelled = _answered(store, wanted, lambda: owners)
        begun = [it.task_id for it in wanted if it.task_id not in cancelled]
        whole += Cancelled(tuple(cancelled)) + _cancel(store, begun, lambda: owners)
    return whole


def _is_of_group(entry: Waiting, group_id: str | None) -> bool:
    return group_id is None or _group_of(entry) == group_id


def _group_of(entry: Waiting) -> str | None:
    try:
        return Task.decode(orjson.loads(entry.payload)).group_id
    except (FormatError, orjson.JSONDecodeError):
        return None


def deliver(store: Store, sink: Sink, lease_s: float) -> int:
    """Carry the outbox to the sink from here, where no worker may be running."""
    with _as_worker(store, lease_s) as worker:
        return drain(store, worker, sink)


def _cancelled(entry: Waiting, collections: Mapping[str, str | None]) -> Answer:
    try:
        task = Task.decode(orjson.loads(entry.payload))
    except (FormatError, orjson.JSONDecodeError):
        task = None  # It is answered all the same.
    result = cancelled(entry, task, collections.get(entry.queue))
    return Answer(entry.task_id, orjson.dumps(result.to_dict()), result.outcome)


@contextmanager
def _as_worker(store: Store, lease_s: float) -> Iterator[Worker]:
    """A worker that serves no queue, for what only a worker may do."""
    worker = Worker(
        f"operator-{uuid.uuid4().hex[:8]}", host=socket.gethostname(), slots=0, lease_s=lease_s
    )
    store.join(worker)
    try:
        yield worker
    finally:
        store.leave(worker)

"""Operations: what an operator does to tasks that are already in the store."""

from __future__ import annotations

import socket
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.store import Answer, Waiting, Worker
from agentpipe.errors import FormatError
from agentpipe.forward import drain
from agentpipe.results import cancelled
from agentpipe.task import Task

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.store import Store
    from agentpipe.sinks.sink import Sink

PAGE = 500


def purge(store: Store, collection: str | None) -> int:
    """Answer every task that waits or is delayed with ``cancelled``; returns how many.

    Those that run are left to finish. An interrupted purge is finished by the next one.
    """
    if collection is None:
        return purge_queues(store, None)
    depths = store.stats().queues
    return purge_queues(store, [it.queue for it in depths if it.collection == collection])


def purge_queues(store: Store, queues: Sequence[str] | None) -> int:
    """The same for some queues; None is all."""
    collections = {depth.queue: depth.collection for depth in store.stats().queues}
    purged, after = 0, -1
    while page := store.peek(queues, after, PAGE):
        after = page[-1].number
        purged += sum(store.answer([_cancelled(entry, collections) for entry in page]))
    return purged


def deliver(store: Store, sink: Sink, lease_s: float) -> int:
    """Carry the outbox to the sink from here, where no worker may be running."""
    with _as_worker(store, lease_s) as worker:
        return drain(store, worker, sink)


def _cancelled(entry: Waiting, collections: dict[str, str | None]) -> Answer:
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

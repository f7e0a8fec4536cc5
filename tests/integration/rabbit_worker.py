"""A worker on RabbitMQ that dies."""

from __future__ import annotations

import uuid
from contextlib import AbstractContextManager, closing, contextmanager
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore
from agentpipe.brokers.records import Worker
from agentpipe.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.brokers.records import Queue

Working = AbstractContextManager[tuple[RabbitStore, Worker]]


@contextmanager
def worker_of(rabbit_url: str, *queues: Queue) -> Iterator[tuple[RabbitStore, Worker]]:
    """A worker that serves these queues; at the end it closes its connection without leaving."""
    with closing(open_store(Settings(broker=rabbit_url))) as store:
        assert isinstance(store, RabbitStore)
        store.declare(queues)
        names = frozenset(queue.name for queue in queues)
        worker = Worker(f"w-{uuid.uuid4().hex}", slots=10, queues=names, lease_s=60)
        store.join(worker)
        yield store, worker

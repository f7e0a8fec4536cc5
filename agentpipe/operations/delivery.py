"""Delivery: publishes the outbox from a command, in case no worker is running."""

from __future__ import annotations

import socket
import uuid
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentpipe.brokers.records import Worker
from agentpipe.worker.outbox.forwarder import drain

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.brokers.base import Store
    from agentpipe.sinks.base import Sink


def deliver(store: Store, sink: Sink, lease_s: float) -> int:
    """Publish all results in the outbox; returns how many."""
    with _as_worker(store, lease_s) as worker:
        return drain(store, worker, sink)


@contextmanager
def _as_worker(store: Store, lease_s: float) -> Iterator[Worker]:
    """Join as a worker that serves no queue, because only workers can take from the outbox."""
    name = f"operator-{uuid.uuid4().hex[:8]}"
    worker = Worker(name, host=socket.gethostname(), slots=0, lease_s=lease_s)
    store.join(worker)
    try:
        yield worker
    finally:
        store.leave(worker)

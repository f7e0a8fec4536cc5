"""Rig: a worker on RabbitMQ whose connection can be cut, and a store beside it."""

from __future__ import annotations

import asyncio
from contextlib import ExitStack, closing, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore
from agentpipe.brokers.records import Offer, Queue, Worker
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from tests.integration.proxy import Proxy
from tests.stores import PATIENCE_S, claim_all, good
from tests.support import wait_until

if TYPE_CHECKING:
    import threading
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.rabbitmq.worker import RabbitWorker
    from agentpipe.brokers.records import Claim
    from agentpipe.connections.amqp.channel import Channel
    from brokers.server_rabbitmq import RabbitServer

QUEUES = [Queue(name, None, 100, 1, 3) for name in ("toys", "others")]
# Longer than any test.
LONG_S = 600.0


def opened(broker_url: str) -> RabbitStore:
    store = open_store(Settings(broker=broker_url, lease_s=LONG_S))
    assert isinstance(store, RabbitStore)
    store.declare(QUEUES)
    return store


class Rig:
    """A worker whose connection can be cut, and a store beside it."""

    def __init__(self, proxy: Proxy, store: RabbitStore, beside: RabbitStore) -> None:
        self.store, self.beside, self._proxy = store, beside, proxy
        self.worker = Worker("w", slots=64, queues=frozenset({"toys", "others"}), lease_s=LONG_S)
        store.join(self.worker)

    @property
    def joined(self) -> RabbitWorker:
        return self.store._workers[self.worker.name]  # noqa: SLF001 - no public name shows it

    @property
    def channel(self) -> Channel:
        """The worker's channel."""
        return self.joined._channel.raw  # noqa: SLF001 - no public name shows it

    def have_closed(self, err: Callable[[Channel], None]) -> None:
        """Have the server close the worker's channel."""
        channel = self.channel
        self.store._link.soon(partial(err, channel))  # noqa: SLF001 - on its own thread
        wait_until(lambda: not channel.is_open, PATIENCE_S, "the channel is closed")

    def offer(self, queue: str, *task_ids: str, priority: int = 0) -> None:
        offers = [Offer(task_id, b"{}", priority) for task_id in task_ids]
        self.beside.offer(queue, offers, round_robin=False)

    def run(self, queue: str, *task_ids: str) -> list[Claim]:
        """Claim these tasks."""
        self.offer(queue, *task_ids)
        return claim_all(len(task_ids), self.store, self.worker)

    @contextmanager
    def away(self) -> Iterator[None]:
        """Cut the connection; the worker is connected again at the end."""
        session = self.store._link._session  # noqa: SLF001 - no public name shows it
        assert session is not None
        self._proxy.refuse()
        wait_until(lambda: not session.is_open, PATIENCE_S, "the connection has ended")
        yield
        self._proxy.accept()

    @contextmanager
    def half_away(self) -> Iterator[None]:
        """Cut the connection; the server notices it only at the end."""
        session = self.store._link._session  # noqa: SLF001 - as above
        assert session is not None
        self._proxy.drop_clients()
        wait_until(lambda: not session.is_open, PATIENCE_S, "the connection has ended")
        yield
        self._proxy.let_go()

    @contextmanager
    def unread(self) -> Iterator[None]:
        """Hold back what the server sends; at the end the connection has been cut."""
        self._proxy.cut()
        yield
        with self.away():
            self._proxy.mend()

    def settled(self, claims: Sequence[Claim]) -> list[bool]:
        """Settle these runs, as soon as the server answers and has delivered them again."""

        def settle() -> list[bool]:
            with suppress(Unreachable):
                return self.store.settle(good(claims))
            return []

        return wait_until(settle, PATIENCE_S, "they are settled")

    def lost(self, *running: Claim) -> set[str]:
        """Which of these runs are found to be lost, if the lease is not."""
        keys = {claim.key: claim.task_id for claim in running}
        assert self.store.heartbeat(self.worker)
        return {keys[key] for key in self.store.compare(self.worker, [*keys], None).lost}


def look_for_a_missing_queue(channel: Channel) -> None:
    """Err: the server closes the channel, and does not hear what is said on it after that."""
    channel._raw.queue_declare("absent", passive=True)  # noqa: SLF001 - no method of ours waits for nothing


@contextmanager
def rig_on(broker_url: str, server: RabbitServer) -> Iterator[Rig]:
    """A rig whose worker reaches the server through a proxy."""
    with ExitStack() as stack:
        proxy = stack.enter_context(Proxy(server.port, odds=0.0))
        through = broker_url.replace(f":{server.port}/", f":{proxy.port}/")
        store, beside = (stack.enter_context(closing(opened(it))) for it in (through, broker_url))
        yield Rig(proxy, store, beside)


async def until_set(event: threading.Event) -> None:
    """Wait for what another thread sets, and leave the event loop free."""
    while not event.is_set():  # noqa: ASYNC110 - an asyncio.Event is not for other threads
        await asyncio.sleep(0.005)

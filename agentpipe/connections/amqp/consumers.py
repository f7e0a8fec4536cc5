"""Consumers: the consumers of one channel, their receivers and their cancellation.

Each consumer gets a new tag. Reusing a tag while its cancel is pending would make the server close
the connection.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import TYPE_CHECKING, Any

from pika import spec

from agentpipe.connections.amqp.callbacks import resolver

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.connections.amqp.arrivals import Delivery


class Consumers:
    """The consumers of a channel, by tag.

    Args:
        raw: pika's channel.
        gone: Called with the name of each queue that was deleted under a consumer, before anything
            else is delivered from a queue of this name.
    """

    def __init__(self, raw: Any, gone: Callable[[str], None]) -> None:
        self._raw, self._gone = raw, gone
        self._queues: dict[str, str] = {}
        self._receivers: dict[str, Callable[[Delivery], None]] = {}
        self._when_cancelled: dict[str, Callable[[], None]] = {}
        self._starting: dict[str, asyncio.Future[Any]] = {}
        self._ending: dict[str, asyncio.Future[Any]] = {}
        self._numbers = itertools.count(1)
        raw.add_on_cancel_callback(self._cancelled)
        raw.add_callback(self._started, [spec.Basic.ConsumeOk], one_shot=False)
        raw.add_callback(self._ended, [spec.Basic.CancelOk], one_shot=False)

    def begin(self, queue: str, arguments: dict[str, Any], started: asyncio.Future[Any]) -> str:
        """Start a consumer and return its tag; ``started`` resolves when the server confirms.

        pika would wait for the answer to each request before it sends the next one.
        """
        consumer = f"c{next(self._numbers)}"
        self._queues[consumer], self._starting[consumer] = queue, started
        consume = spec.Basic.Consume(queue=queue, consumer_tag=consumer, arguments=arguments)
        self._raw._send_method(consume)  # noqa: SLF001 - see the docstring
        return consumer

    def lock(self, queue: str, lost: Callable[[], None]) -> None:
        """Start the only consumer of a queue that stays empty, without waiting for the server."""
        self._when_cancelled[queue] = lost
        alone = spec.Basic.Consume(queue=queue, consumer_tag=queue, exclusive=True, nowait=True)
        self._raw._send_method(alone)  # noqa: SLF001 - as in ``begin``

    def unlock(self, queue: str) -> None:
        """End the consumer that ``lock`` started."""
        self._when_cancelled.pop(queue, None)
        self._raw._send_method(spec.Basic.Cancel(queue, nowait=True))  # type: ignore[arg-type]  # noqa: SLF001 - as in ``end``

    def hear(
        self, consumer: str, receive: Callable[[Delivery], None], cancelled: Callable[[], None]
    ) -> None:
        """Set the callbacks for the consumer's deliveries and for a cancel by the server."""
        self._receivers[consumer], self._when_cancelled[consumer] = receive, cancelled

    async def started(self, consumer: str) -> None:
        """Wait for the start: RabbitMQ 3.10 closes the channel on a cancel before that."""
        self._when_cancelled.pop(consumer, None)
        if started := self._starting.get(consumer):
            await started

    async def all_started(self) -> None:
        """Wait until the server has confirmed each consumer, or the channel has closed."""
        if starting := list(self._starting.values()):
            await asyncio.wait(starting)

    def end(self, consumer: str, ended: asyncio.Future[Any]) -> None:
        """Cancel the consumer; ``ended`` resolves after all that a classic queue has delivered.

        pika's own ``basic_cancel`` would reject messages in flight, and the server would redeliver
        them.
        """
        self._ending[consumer] = ended
        self._raw._send_method(spec.Basic.Cancel(consumer))  # type: ignore[arg-type]  # noqa: SLF001 - the tag can be a string; see the docstring

    def forget(self, consumer: str) -> None:
        """Remove a consumer that has ended; pika would keep it until the channel closes."""
        self._receivers.pop(consumer, None)
        self._queues.pop(consumer, None)
        self._raw._cleanup_consumer_ref(consumer)  # noqa: SLF001 - ``end`` bypasses pika's cancel

    def queue_of(self, consumer: str) -> str:
        """The name of the queue of this consumer; of a lock, its tag."""
        return self._queues.get(consumer, consumer)

    def deliver(self, consumer: str, delivery: Delivery) -> bool:
        """Pass the delivery to its receiver; False if the consumer was forgotten."""
        receive = self._receivers.get(consumer)
        if receive is None:
            return False
        receive(delivery)
        return True

    def _started(self, frame: Any) -> None:
        if started := self._starting.pop(frame.method.consumer_tag, None):
            resolver(started)(None)

    def _ended(self, frame: Any) -> None:
        if ended := self._ending.pop(frame.method.consumer_tag, None):
            resolver(ended)(None)

    def _cancelled(self, frame: Any) -> None:
        self._started(frame)
        self._gone(self.queue_of(frame.method.consumer_tag))
        self._queues.pop(frame.method.consumer_tag, None)
        self._when_cancelled.pop(frame.method.consumer_tag, lambda: None)()

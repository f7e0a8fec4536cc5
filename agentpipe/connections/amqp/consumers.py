"""Consumers: those of one channel: who receives what each is delivered, and how they end.

Each has a tag of its own. One that is used again while its cancel still waits would have the server
end the connection.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pika import spec

from agentpipe.connections.amqp.callbacks import resolver, unused

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable

    from agentpipe.connections.amqp.arrivals import Delivery


class Consumers:
    """By their tags.

    Args:
        raw: pika's channel.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._receivers: dict[str, Callable[[Delivery], None]] = {}
        self._when_cancelled: dict[str, Callable[[], None]] = {}
        self._starting: dict[str, asyncio.Future[Any]] = {}
        self._ending: dict[str, asyncio.Future[Any]] = {}
        raw.add_on_cancel_callback(self._cancelled)
        raw.add_callback(self._ended, [spec.Basic.CancelOk], one_shot=False)

    def begin(self, queue: str, arguments: dict[str, Any], started: asyncio.Future[Any]) -> str:
        """Consume; returns the consumer. ``started`` ends when the server has begun."""
        consumer = str(
            self._raw.basic_consume(queue, unused, arguments=arguments, callback=resolver(started))
        )
        self._starting[consumer] = started
        return consumer

    def hear(
        self, consumer: str, receive: Callable[[Delivery], None], cancelled: Callable[[], None]
    ) -> None:
        """Who hears of its deliveries, and of its end by the server."""
        self._receivers[consumer], self._when_cancelled[consumer] = receive, cancelled

    async def started(self, consumer: str) -> None:
        """A server of 3.10 ends the channel when a consumer is cancelled before it has begun."""
        self._when_cancelled.pop(consumer, None)
        if started := self._starting.pop(consumer, None):
            await started

    def end(self, consumer: str, ended: asyncio.Future[Any]) -> None:
        """Cancel it; ``ended`` ends behind all that a classic queue has delivered.

        pika's own ``basic_cancel`` would have the server deliver again what is on its way.
        """
        self._ending[consumer] = ended
        self._raw._send_method(spec.Basic.Cancel(consumer))  # type: ignore[arg-type]  # noqa: SLF001 - its tag may be a string; see above

    def forget(self, consumer: str) -> None:
        """It has ended; pika, too, would know it as long as the channel lives."""
        self._receivers.pop(consumer, None)
        self._raw._cleanup_consumer_ref(consumer)  # noqa: SLF001 - see ``end``

    def deliver(self, consumer: str, delivery: Delivery) -> bool:
        """Hand it to the receiver; False where that is forgotten."""
        receive = self._receivers.get(consumer)
        if receive is None:
            return False
        receive(delivery)
        return True

    def _ended(self, frame: Any) -> None:
        if ended := self._ending.pop(frame.method.consumer_tag, None):
            resolver(ended)(None)

    def _cancelled(self, frame: Any) -> None:
        self._starting.pop(frame.method.consumer_tag, None)
        self._when_cancelled.pop(frame.method.consumer_tag, lambda: None)()

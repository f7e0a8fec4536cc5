"""Consumers: those of one channel: which queue each consumes, who receives, and how they end.

A queue's consumer keeps its name when it is cancelled and consumes again: pika, and we, know of
each as long as the channel lives.
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
    """At most one of each queue.

    Args:
        raw: pika's channel.
    """

    def __init__(self, raw: Any) -> None:
        self._raw = raw
        self._by_queue: dict[str, str] = {}
        self._receivers: dict[str, Callable[[Delivery], None]] = {}
        self._when_cancelled: dict[str, Callable[[], None]] = {}
        self._starting: dict[str, asyncio.Future[Any]] = {}
        self._ending: dict[str, asyncio.Future[Any]] = {}
        raw.add_on_cancel_callback(self._cancelled)
        raw.add_callback(self._ended, [spec.Basic.CancelOk], one_shot=False)

    def begin(self, queue: str, arguments: dict[str, Any], started: asyncio.Future[Any]) -> str:
        """Consume; returns the consumer. ``started`` ends when the server has begun."""
        if (known := self._by_queue.get(queue)) is not None:
            again = spec.Basic.Consume(queue=queue, consumer_tag=known, nowait=True)
            self._raw._send_method(again)  # noqa: SLF001 - for pika it would be one more
            started.set_result(None)
            return known
        consumer = str(
            self._raw.basic_consume(queue, unused, arguments=arguments, callback=resolver(started))
        )
        self._by_queue[queue], self._starting[consumer] = consumer, started
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

    def deliver(self, consumer: str, delivery: Delivery) -> None:
        """Hand it to the receiver."""
        self._receivers[consumer](delivery)

    def _ended(self, frame: Any) -> None:
        if ended := self._ending.pop(frame.method.consumer_tag, None):
            resolver(ended)(None)

    def _cancelled(self, frame: Any) -> None:
        self._when_cancelled.pop(frame.method.consumer_tag, lambda: None)()

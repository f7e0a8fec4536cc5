"""Channel: an AMQP channel whose calls can be awaited, and whose messages are confirmed."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Literal

import pika
from pika import exceptions, spec

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from agentpipe.connections.amqp.message import Declaration, OutgoingMessage

Fate = Literal["taken", "refused", "unroutable"]
ACCESS_REFUSED, NOT_FOUND, LOCKED, PRECONDITION_FAILED = 403, 404, 405, 406
# The field of AMQP has 16 bits; 0 would be no limit.
MAX_PREFETCH = 0xFFFF
# What the server says of a message above its max_message_size.
TOO_LARGE = "larger than configured max size"


class ChannelClosed(Exception):  # noqa: N818 - reads as what happened
    """A channel or connection is gone, and with it what was under way on it.

    Attributes:
        code: AMQP's, where the server gave one.
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        self.code = code
        super().__init__(reason)


@contextmanager
def closed_errors() -> Iterator[None]:
    """What pika says of something that is closed already, as ours."""
    try:
        yield
    except (exceptions.AMQPError, exceptions.ChannelError) as error:
        raise ChannelClosed(repr(error)) from error


class Delivery:
    """What was delivered: ``tag``, ``redelivered``, ``headers``, ``body``."""

    __slots__ = ("body", "headers", "redelivered", "tag")

    def __init__(self, method: Any, properties: Any, body: bytes) -> None:
        self.tag: int = method.delivery_tag
        self.redelivered: bool = bool(method.redelivered)
        self.headers: dict[str, Any] = properties.headers or {}
        self.body = body


class _Batch:
    """Published messages whose confirmations are awaited together."""

    def __init__(self, first: int, number: int, done: asyncio.Future[Any]) -> None:
        self._first, self.done = first, done
        self._left = number
        self.fates: list[Fate] = ["taken"] * number

    def settle(self, tag: int, *, taken: bool) -> None:
        if not taken:
            self.fates[tag - self._first] = "refused"
        self._left -= 1
        if not self._left and not self.done.done():
            self.done.set_result(None)

    def returned(self, tag: int) -> None:
        self.fates[tag - self._first] = "unroutable"


class Channel:
    """A channel on which every message is confirmed; all of its calls fail when it closes."""

    def __init__(self, raw: Any, on_closed: Callable[[], None]) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._unconfirmed: dict[int, _Batch] = {}
        self._published = 0
        self._prefetch = 0
        self._getting = asyncio.Lock()
        self._got: asyncio.Future[Any] | None = None
        self._when_cancelled: dict[str, Callable[[], None]] = {}
        self._starting: dict[str, asyncio.Future[Any]] = {}
        self._counted: Callable[[int], None] | None = None
        self._why_closed = ""
        self._on_closed = on_closed
        raw.add_on_close_callback(self._closed)
        raw.add_on_return_callback(self._returned)
        raw.add_on_cancel_callback(self._cancelled)
        raw.add_callback(self._empty, [spec.Basic.GetEmpty], one_shot=False)
        raw.add_callback(self._declared, [spec.Queue.DeclareOk], one_shot=False)

    @property
    def is_open(self) -> bool:
        """Whether it can be used."""
        return bool(self._raw.is_open)

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """One of pika's methods that are answered; returns the answer.

        Raises:
            ChannelClosed: The channel was closed instead, with the server's code.
        """
        future = self._future()
        with closed_errors():
            getattr(self._raw, method)(*args, callback=resolver(future), **kwargs)
        return (await future).method

    async def confirm(self) -> None:
        """Have all messages confirmed; once, before the first."""
        done = self._future()
        self._raw.confirm_delivery(self._confirmed, callback=resolver(done))
        await done

    async def declare(self, queue: Declaration) -> int:
        """Make the queue if there is none; returns how many messages are ready in it."""
        answer = await self.call(
            "queue_declare", queue.name, durable=True, arguments=dict(queue.arguments)
        )
        return int(answer.message_count)

    def ensure(self, queue: Declaration) -> None:
        """The same without an answer; the server closes the channel where it is of another kind."""
        with closed_errors():
            self._raw.queue_declare(queue.name, durable=True, arguments=dict(queue.arguments))

    def lock(self, name: str) -> None:
        """Make a queue for this connection alone; where another has it, the channel ends."""
        with closed_errors():
            self._raw.queue_declare(name, exclusive=True)

    async def depth(self, name: str) -> int | None:
        """How many messages are ready; None, and the channel is gone, where there is no queue."""
        try:
            answer = await self.call("queue_declare", name, passive=True)
        except ChannelClosed as error:
            if error.code == NOT_FOUND:
                return None
            raise
        return int(answer.message_count)

    async def depths(self, names: Sequence[str]) -> list[int]:
        """The same of many queues at the price of one, on a channel that does nothing else.

        It ends, and the channel with it, before the first that is not there. pika's own method
        would wait for each answer before it asks for the next.
        """
        counts: list[int] = []
        done = self._future()

        def counted(number: int) -> None:
            counts.append(number)
            if len(counts) == len(names) and not done.done():
                done.set_result(None)

        self._counted = counted
        with closed_errors():
            for name in names:
                self._raw._send_method(spec.Queue.Declare(queue=name, passive=True))  # noqa: SLF001 - see above
        try:
            await done
        except ChannelClosed as error:
            if error.code != NOT_FOUND:
                raise
        finally:
            self._counted = None
        return counts

    async def publish(self, messages: Sequence[OutgoingMessage]) -> list[Fate]:
        """Publish all, and wait until the server has them safe, or not."""
        if not messages:
            return []
        batch = _Batch(self._published + 1, len(messages), self._future())
        for message in messages:
            self._published += 1
            self._unconfirmed[self._published] = batch
            self._send(message)
        await batch.done
        return batch.fates

    def _send(self, message: OutgoingMessage) -> None:
        properties = pika.BasicProperties(
            message_id=str(self._published),
            headers=dict(message.headers),
            delivery_mode=2 if message.lasting else 1,
            priority=message.priority,
            expiration=None if message.expires_ms is None else str(message.expires_ms),
        )
        with closed_errors():
            self._raw.basic_publish(
                message.exchange, message.key, message.body, properties, message.mandatory
            )

    async def consume(
        self,
        queue: str,
        prefetch: int,
        receive: Callable[[Delivery], None],
        cancelled: Callable[[], None] = lambda: None,
        **arguments: Any,
    ) -> str:
        """Have messages delivered, at most ``prefetch`` unacknowledged; returns the consumer's tag.

        ``cancelled`` is called when the server ends it, because the queue is gone. The server
        is not waited for: it closes the channel where there is no such queue.
        """
        await self._limit(prefetch)

        def on_message(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
            receive(Delivery(method, properties, body))

        started = self._future()
        with closed_errors():
            consumer = str(
                self._raw.basic_consume(
                    queue, on_message, arguments=arguments, callback=resolver(started)
                )
            )
        self._starting[consumer] = started
        self._when_cancelled[consumer] = cancelled
        return consumer

    async def resume(self, queue: str, consumer: str, prefetch: int) -> None:
        """Have messages delivered to a cancelled consumer again.

        pika keeps what it knows of each new consumer as long as the channel lives, so that one
        for each poll would be a leak.
        """
        await self._limit(prefetch)
        consume = spec.Basic.Consume(queue=queue, consumer_tag=consumer, nowait=True)
        self._raw._send_method(consume)  # noqa: SLF001 - see above

    async def _limit(self, prefetch: int) -> None:
        prefetch = min(prefetch, MAX_PREFETCH)
        if prefetch != self._prefetch:
            await self.call("basic_qos", prefetch_count=prefetch)
            self._prefetch = prefetch

    async def cancel(self, consumers: Iterable[str]) -> None:
        """Have nothing more delivered; what was, or is on its way, stays unacknowledged.

        pika's own ``basic_cancel`` would have the server deliver again what is on its way.
        """
        for consumer in consumers:
            self._when_cancelled.pop(consumer, None)
            if started := self._starting.pop(consumer, None):
                await started  # A server of 3.10 ends the channel when it is cancelled earlier.
            cancel = spec.Basic.Cancel(consumer, nowait=True)  # type: ignore[arg-type]
            self._raw._send_method(cancel)  # noqa: SLF001 - see above
        await self.catch_up()

    async def delete(self, queues: Iterable[str]) -> None:
        """Delete queues, many at the price of one."""
        for queue in queues:
            self._raw.queue_delete(queue)
        await self.catch_up()

    async def catch_up(self) -> None:
        """Wait until the server has done all that was asked on this channel."""
        await self.call("basic_qos", prefetch_count=self._prefetch)

    async def get(self, queue: str) -> Delivery | None:
        """Take one message, if there is one."""
        async with self._getting:
            future = self._got = self._future()

            def on_message(_channel: Any, method: Any, properties: Any, body: bytes) -> None:
                if not future.done():
                    future.set_result(Delivery(method, properties, body))

            with closed_errors():
                self._raw.basic_get(queue, on_message)
            delivery: Delivery | None = await future
            return delivery

    def ack(self, tag: int, *, all_before: bool = False) -> None:
        """Done with it."""
        if self.is_open:
            self._raw.basic_ack(tag, multiple=all_before)

    def requeue(self, tag: int) -> None:
        """Put it back where it was."""
        if self.is_open:
            self._raw.basic_nack(tag, requeue=True)

    def requeue_all(self) -> None:
        """Put all that is unacknowledged back where it was."""
        if self.is_open:
            self._raw.basic_nack(0, multiple=True, requeue=True)

    def close(self) -> None:
        """Give back all that is unacknowledged."""
        if self.is_open:
            self._raw.close()

    def _future(self) -> asyncio.Future[Any]:
        if not self.is_open:
            raise ChannelClosed(f"the channel is closed: {self._why_closed}")
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _confirmed(self, frame: Any) -> None:
        method = frame.method
        taken = isinstance(method, spec.Basic.Ack)
        tags = [method.delivery_tag]
        if method.multiple:
            tags = [tag for tag in self._unconfirmed if tag <= method.delivery_tag]
        for tag in tags:
            self._unconfirmed.pop(tag).settle(tag, taken=taken)

    def _returned(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        tag = int(properties.message_id)
        if tag in self._unconfirmed:
            self._unconfirmed[tag].returned(tag)

    def _cancelled(self, frame: Any) -> None:
        self._when_cancelled.pop(frame.method.consumer_tag, lambda: None)()

    def _declared(self, frame: Any) -> None:
        if self._counted is not None:
            self._counted(int(frame.method.message_count))

    def _empty(self, _frame: Any) -> None:
        if self._got is not None and not self._got.done():
            self._got.set_result(None)

    def _closed(self, _channel: Any, reason: Any) -> None:
        code = getattr(reason, "reply_code", 0)
        text = self._why_closed = getattr(reason, "reply_text", "") or repr(reason)
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(ChannelClosed(text, code))
                future.exception()  # It may have no reader.
        self._unconfirmed.clear()
        self._on_closed()


def resolver(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    """A callback that ends the future, if it has not ended."""

    def resolve(value: Any) -> None:
        if not future.done():
            future.set_result(value)

    return resolve

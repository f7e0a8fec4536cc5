"""Channel: an AMQP channel whose calls can be awaited, and whose messages are confirmed."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from pika import exceptions, spec

from agentpipe.connections.amqp import wire
from agentpipe.connections.amqp.arrivals import Arrivals
from agentpipe.connections.amqp.callbacks import resolver, unused
from agentpipe.connections.amqp.confirmations import Confirmations
from agentpipe.connections.amqp.consumers import Consumers
from agentpipe.connections.amqp.gets import Gets
from agentpipe.connections.amqp.unacknowledged import Unacknowledged

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Sequence

    from agentpipe.connections.amqp.arrivals import Delivery
    from agentpipe.connections.amqp.confirmations import Batch, Fate
    from agentpipe.connections.amqp.message import Declaration, OutgoingMessage

ACCESS_REFUSED, NOT_FOUND, LOCKED, PRECONDITION_FAILED = 403, 404, 405, 406
# The field of AMQP has 16 bits; 0 would be no limit.
MAX_PREFETCH = 0xFFFF
# Messages that are written in one turn of the loop.
WRITTEN_AT_ONCE = 100
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


class Channel:
    """A channel on which every message is confirmed; all of its calls fail when it closes."""

    def __init__(self, raw: Any, on_closed: Callable[[], None]) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._confirmations = Confirmations()
        self._prefetch = 0
        self._consumers = Consumers(raw)
        self._unacknowledged = Unacknowledged()
        self._gets = Gets(self.requeue)
        self._counted: Callable[[int], None] | None = None
        self._why_closed = ""
        self._on_closed = on_closed
        raw.add_on_close_callback(self._closed)
        raw.add_on_return_callback(self._returned)
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
        arrivals = Arrivals(self._delivered, self._confirmations.confirm)
        self._raw.confirm_delivery(unused, callback=resolver(done))
        self._raw.connection.arrivals[self._raw.channel_number] = arrivals
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
        """Publish all, and wait until the server has them safe, or not.

        While it stores the first ones, the next are on their way. Of messages with one that
        cannot be written, none is published.
        """
        for message in messages[WRITTEN_AT_ONCE:]:
            wire.check(message)
        batches = []
        for first in range(0, len(messages), WRITTEN_AT_ONCE):
            if first:
                await asyncio.sleep(0)
            batches.append(self._begin(messages[first : first + WRITTEN_AT_ONCE]))
        for batch in batches:
            await batch.done
        return [fate for batch in batches for fate in batch.fates]

    def _begin(self, messages: Sequence[OutgoingMessage]) -> Batch:
        # All frames first: half a message would end the connection, and with it all that runs.
        frames = list(self._frames(messages, self._confirmations.next_number))
        batch = self._confirmations.expect(len(messages), self._future())
        self._raw.connection.say(frames)
        return batch

    def _frames(self, messages: Sequence[OutgoingMessage], first: int) -> Iterator[bytes]:
        channel, largest = self._raw.channel_number, self._raw.connection.largest_body
        for number, message in enumerate(messages, first):
            yield from wire.publication(channel, message, str(number), largest)

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
        with closed_errors():
            consumer = self._consumers.begin(queue, arguments, self._future())
        self._consumers.hear(consumer, receive, cancelled)
        return consumer

    async def _limit(self, prefetch: int) -> None:
        prefetch = min(prefetch, MAX_PREFETCH)
        if prefetch != self._prefetch:
            self._prefetch = prefetch  # First: meanwhile ``catch_up`` must not say the last one.
            await self.call("basic_qos", prefetch_count=prefetch)

    async def cancel(self, consumers: Iterable[str]) -> None:
        """Have nothing more delivered; what was delivered stays unacknowledged.

        A classic queue answers behind all that it has delivered.
        """
        ended = {}
        for consumer in consumers:
            await self._consumers.started(consumer)
            ended[consumer] = self._future()
            self._consumers.end(consumer, ended[consumer])
        for each in ended.values():
            await each
        await self.catch_up()
        for consumer in ended:
            self._consumers.forget(consumer)

    async def keep_made(self, name: str) -> None:
        """Return once what was made on this channel survives a kill of the server.

        RabbitMQ 3.10 may answer before the last change of queues and bindings is on disk. Another
        one writes both: an exchange of this name, which comes and goes.
        """
        await self.call("exchange_declare", name, "fanout", durable=True)
        await self.call("exchange_delete", name)

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
        return next(iter(await self.get_many(queue, 1)), None)

    async def get_many(self, queue: str, number: int) -> list[Delivery]:
        """Take up to so many messages, as far as there are any, at the price of one."""
        frame = wire.get(self._raw.channel_number, queue)
        answers = self._gets.answers(number, self._future())
        self._raw.connection.say([frame] * number)
        return await answers

    def ack(self, tag: int, *, all_before: bool = False) -> None:
        """Done with it."""
        if all_before:
            self._unacknowledged.up_to(tag)
            self._say_acknowledged([(tag, True)])
        else:
            self.ack_all([tag])

    def ack_all(self, tags: Collection[int]) -> None:
        """Done with all of these."""
        self._say_acknowledged(self._unacknowledged.done(tags))

    def _say_acknowledged(self, words: Iterable[tuple[int, bool]]) -> None:
        if self.is_open:
            number, say = self._raw.channel_number, wire.acknowledgement
            frames = [say(number, tag, all_before=all_before) for tag, all_before in words]
            self._raw.connection.say(frames)

    def requeue(self, tag: int) -> None:
        """Put it back where it was."""
        self._unacknowledged.discard(tag)
        if self.is_open:
            self._raw.basic_nack(tag, requeue=True)

    def requeue_all(self) -> None:
        """Put all that is unacknowledged back where it was."""
        self._unacknowledged.clear()
        if self.is_open:
            self._raw.basic_nack(0, multiple=True, requeue=True)

    def close(self) -> None:
        """Give back all that is unacknowledged."""
        if self.is_open:
            self._raw.close()

    def _refuse_closed(self) -> None:
        """What is said on a closed channel has the server end the connection."""
        if not self.is_open:
            raise ChannelClosed(f"the channel is closed: {self._why_closed}")

    def _future(self) -> asyncio.Future[Any]:
        self._refuse_closed()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _delivered(self, consumer: str | None, delivery: Delivery | None) -> None:
        if not self.is_open:  # It is being closed: all of it goes back.
            return
        if delivery is not None:
            self._unacknowledged.add(delivery.tag)
        if consumer is None:
            self._gets.answer(delivery)
        elif delivery is not None and not self._consumers.deliver(consumer, delivery):
            self.requeue(delivery.tag)  # A node of a quorum queue may be late.

    def _returned(self, _channel: Any, _method: Any, properties: Any, _body: bytes) -> None:
        self._confirmations.returned(int(properties.message_id))

    def _declared(self, frame: Any) -> None:
        if self._counted is not None:
            self._counted(int(frame.method.message_count))

    def _closed(self, _channel: Any, reason: Any) -> None:
        code = getattr(reason, "reply_code", 0)
        text = self._why_closed = getattr(reason, "reply_text", "") or repr(reason)
        for future in list(self._waiting):
            if not future.done():
                future.set_exception(ChannelClosed(text, code))
                future.exception()  # It may have no reader.
        self._confirmations.clear()
        self._gets.clear()
        self._raw.connection.arrivals.pop(self._raw.channel_number, None)
        self._on_closed()

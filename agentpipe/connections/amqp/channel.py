"""Channel: an AMQP channel with awaitable calls and publisher confirms."""

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
# The AMQP field has 16 bits; 0 would mean no limit.
MAX_PREFETCH = 0xFFFF
# Messages written in one turn of the event loop.
WRITTEN_AT_ONCE = 100
# Part of the server's error for a message above its max_message_size.
TOO_LARGE = "larger than configured max size"


class ChannelClosed(Exception):  # noqa: N818 - reads as what happened
    """A channel or connection has closed; its pending operations failed.

    Attributes:
        code: The AMQP reply code, or 0 if the server gave none.
    """

    def __init__(self, reason: str, code: int = 0) -> None:
        self.code = code
        super().__init__(reason)


@contextmanager
def closed_errors() -> Iterator[None]:
    """Raise pika's errors about a closed channel or connection as ``ChannelClosed``."""
    try:
        yield
    except (exceptions.AMQPError, exceptions.ChannelError) as error:
        raise ChannelClosed(repr(error)) from error


class Channel:
    """A channel that confirms every message; all pending calls fail when it closes."""

    def __init__(self, raw: Any, on_closed: Callable[[], None]) -> None:
        self._raw = raw
        self._loop = asyncio.get_running_loop()
        self._waiting: set[asyncio.Future[Any]] = set()
        self._confirmations = Confirmations()
        self._prefetch = 0
        self._unacknowledged = Unacknowledged()
        self._consumers = Consumers(raw, self._unacknowledged.orphan)
        self._gets = Gets(self.requeue)
        self._counted: Callable[[int], None] | None = None
        self._why_closed = ""
        self._on_closed = on_closed
        raw.add_on_close_callback(self._closed)
        raw.add_on_return_callback(self._returned)
        raw.add_callback(self._declared, [spec.Queue.DeclareOk], one_shot=False)

    @property
    def is_open(self) -> bool:
        """Whether the channel can be used."""
        return bool(self._raw.is_open)

    async def call(self, method: str, *args: Any, **kwargs: Any) -> Any:
        """Call a pika method that the server answers; returns the answer.

        Raises:
            ChannelClosed: The server closed the channel instead; carries its code.
        """
        future = self._future()
        with closed_errors():
            getattr(self._raw, method)(*args, callback=resolver(future), **kwargs)
        return (await future).method

    async def confirm(self) -> None:
        """Enable publisher confirms; call once, before the first message."""
        done = self._future()
        arrivals = Arrivals(self._delivered, self._confirmations.confirm)
        self._raw.confirm_delivery(unused, callback=resolver(done))
        self._raw.connection.arrivals[self._raw.channel_number] = arrivals
        await done

    async def declare(self, queue: Declaration) -> int:
        """Create the queue if it is missing; returns the number of ready messages."""
        answer = await self.call(
            "queue_declare", queue.name, durable=True, arguments=dict(queue.arguments)
        )
        return int(answer.message_count)

    def ensure(self, queue: Declaration) -> None:
        """Declare without waiting; the server closes the channel if the arguments differ."""
        self._refuse_closed()
        name, arguments = queue.name, dict(queue.arguments)
        declare = spec.Queue.Declare(queue=name, durable=True, nowait=True, arguments=arguments)
        with closed_errors():
            self._raw._send_method(declare)  # noqa: SLF001 - pika can hold it back behind others

    def lock(self, queue: Declaration, lost: Callable[[], None]) -> None:
        """Become the queue's only consumer; the channel closes if it has one.

        ``lost`` is called if the server ends the consumer.
        """
        self.ensure(queue)
        with closed_errors():
            self._consumers.lock(queue.name, lost)

    def unlock(self, name: str) -> None:
        """Stop consuming from the queue; does not wait for the server."""
        with closed_errors():
            self._consumers.unlock(name)

    def lock_exclusively(self, name: str) -> None:
        """Declare an exclusive queue; the channel closes if another connection has it."""
        with closed_errors():
            self._raw.queue_declare(name, exclusive=True)

    async def depth(self, name: str) -> int | None:
        """The number of ready messages; None if the queue is missing, which closes the channel."""
        try:
            answer = await self.call("queue_declare", name, passive=True)
        except ChannelClosed as error:
            if error.code == NOT_FOUND:
                return None
            raise
        return int(answer.message_count)

    async def depths(self, names: Sequence[str]) -> list[int]:
        """Count the ready messages of many queues in one round trip, on a dedicated channel.

        The counts stop before the first missing queue, which also closes the channel. pika's own
        method would wait for each answer before it sends the next request.
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
                self._raw._send_method(spec.Queue.Declare(queue=name, passive=True))  # noqa: SLF001 - pipelined
        try:
            await done
        except ChannelClosed as error:
            if error.code != NOT_FOUND:
                raise
        finally:
            self._counted = None
        return counts

    async def publish(self, messages: Sequence[OutgoingMessage]) -> list[Fate]:
        """Publish all messages; returns once the server has stored or refused each one.

        Sends the next batch while the server stores the previous ones. If one message cannot be
        encoded, none is published.
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
        # Encode all frames first: half a message would close the connection and stop all work on
        # it.
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
        """Start a consumer with at most ``prefetch`` unacknowledged messages; returns its tag.

        ``cancelled`` is called when the server ends the consumer because the queue is gone. This
        does not wait for the server, which closes the channel if the queue is missing.
        """
        await self._limit(prefetch)
        with closed_errors():
            consumer = self._consumers.begin(queue, arguments, self._future())
        self._consumers.hear(consumer, receive, cancelled)
        return consumer

    async def _limit(self, prefetch: int) -> None:
        prefetch = min(prefetch, MAX_PREFETCH)
        if prefetch != self._prefetch:
            self._prefetch = prefetch  # Set first: ``catch_up`` must not send the old value.
            await self.call("basic_qos", prefetch_count=prefetch)

    async def cancel(self, consumers: Iterable[str]) -> None:
        """Stop deliveries; messages already delivered stay unacknowledged.

        A classic queue answers after everything that it has delivered.
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
        """Return once the queues and bindings declared on this channel survive a server crash.

        RabbitMQ 3.10 can answer before the last change of queues and bindings is on disk. A later
        change flushes both: creating and deleting an exchange named ``name``.
        """
        await self.call("exchange_declare", name, "fanout", durable=True)
        await self.call("exchange_delete", name)

    async def delete(self, queues: Iterable[str]) -> None:
        """Delete queues, many in one round trip."""
        for queue in queues:
            self._raw.queue_delete(queue)
        await self.catch_up()

    async def catch_up(self) -> None:
        """Wait until the server has processed all requests on this channel.

        The channel answers for itself. A queue starts a consumer later, and delivers to it then.
        """
        await self._consumers.all_started()
        await self.call("basic_qos", prefetch_count=self._prefetch)

    async def get(self, queue: str) -> Delivery | None:
        """Take one message, or return None if the queue is empty."""
        return next(iter(await self.get_many(queue, 1)), None)

    async def get_many(self, queue: str, number: int) -> list[Delivery]:
        """Take up to ``number`` messages in one round trip."""
        frame = wire.get(self._raw.channel_number, queue)
        answers = self._gets.answers(queue, number, self._future())
        self._raw.connection.say([frame] * number)
        return await answers

    def ack(self, tag: int, *, all_before: bool = False) -> None:
        """Acknowledge a delivery."""
        if all_before:
            self._unacknowledged.up_to(tag)
            self._say_acknowledged([(tag, True)])
        else:
            self.ack_all([tag])

    def ack_all(self, tags: Collection[int]) -> None:
        """Acknowledge these deliveries."""
        self._say_acknowledged(self._unacknowledged.done(tags))

    def _say_acknowledged(self, words: Iterable[tuple[int, bool]]) -> None:
        if self.is_open:
            number, say = self._raw.channel_number, wire.acknowledgement
            frames = [say(number, tag, all_before=all_before) for tag, all_before in words]
            self._raw.connection.say(frames)

    def requeue(self, tag: int) -> None:
        """Return a message to its place in the queue."""
        if self._unacknowledged.requeued(tag) and self.is_open:
            self._raw.basic_nack(tag, requeue=True)

    def requeue_all(self) -> None:
        """Return all unacknowledged messages to their queues."""
        self._unacknowledged.clear()
        if self.is_open:
            self._raw.basic_nack(0, multiple=True, requeue=True)

    def close(self) -> None:
        """Close the channel; the server requeues everything unacknowledged."""
        if self.is_open:
            self._raw.close()

    def _refuse_closed(self) -> None:
        """Raise ``ChannelClosed``: the server closes the connection if a closed channel is used."""
        if not self.is_open:
            raise ChannelClosed(f"the channel is closed: {self._why_closed}")

    def _future(self) -> asyncio.Future[Any]:
        self._refuse_closed()
        future: asyncio.Future[Any] = self._loop.create_future()
        self._waiting.add(future)
        future.add_done_callback(self._waiting.discard)
        return future

    def _delivered(self, consumer: str | None, delivery: Delivery | None) -> None:
        if not self.is_open:  # The channel is closing: the server requeues everything.
            return
        if delivery is not None:
            queue = self._consumers.queue_of(consumer) if consumer else self._gets.queue
            self._unacknowledged.add(delivery.tag, queue)
        if consumer is None:
            self._gets.answer(delivery)
        elif delivery is not None and not self._consumers.deliver(consumer, delivery):
            self.requeue(delivery.tag)  # A quorum queue's node can deliver after the cancel.

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
                future.exception()  # Mark it as retrieved: perhaps nothing awaits it.
        self._confirmations.clear()
        self._gets.clear()
        self._raw.connection.arrivals.pop(self._raw.channel_number, None)
        self._on_closed()

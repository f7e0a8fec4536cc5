"""Messages are written and read without pika exactly as pika writes and reads them."""

from __future__ import annotations

import asyncio
from typing import Any

import pika
import pytest
from pika import data, frame, spec  # type: ignore[attr-defined]
from pika.adapters.asyncio_connection import AsyncioConnection
from pika.adapters.base_connection import BaseConnection
from pika.channel import Channel as PikaChannel
from pika.exceptions import InvalidFrameError

from agentpipe.connections.amqp import wire
from agentpipe.connections.amqp.arrivals import Arrivals, Delivery
from agentpipe.connections.amqp.channel import Channel, ChannelClosed
from agentpipe.connections.amqp.confirmations import Confirmations
from agentpipe.connections.amqp.message import OutgoingMessage
from agentpipe.connections.amqp.quick_connection import PIECE_BYTES, QuickConnection, pieces_of
from agentpipe.connections.amqp.unacknowledged import Unacknowledged

LARGEST = 100
HEADERS = [
    {},
    {"a": "text", "b": 7, "c": -(2**40), "d": ""},
    {"a": "ä" * 300, "none": None, "yes": True, "list": [1, "x"], "in": {"k": 1}},
]


def content(*frames: frame.Frame) -> bytes:
    return b"".join(each.marshal() for each in frames)


def delivered(headers: dict[str, Any], *bodies: bytes, **properties: Any) -> bytes:
    """A delivery in the bytes that a server sends."""
    size = sum(map(len, bodies))
    deliver = spec.Basic.Deliver("ctag1.x", 2**40, True, "", "queue")
    held = pika.BasicProperties(headers=headers, **properties)
    return content(
        frame.Method(3, deliver),
        frame.Header(3, size, held),
        *(frame.Body(3, body) for body in bodies),
    )


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize("body", [b"", b"x", b"x" * LARGEST, b"y" * (2 * LARGEST + 1)])
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"expires_ms": 1500, "priority": 2, "exchange": "fleet.crew"},
        {"lasting": False, "mandatory": False, "priority": 0},
    ],
)
def test_pika_reads_a_publication_as_it_was_meant(
    headers: dict[str, Any], body: bytes, options: dict[str, Any]
) -> None:
    message = OutgoingMessage("ä key", body, headers, **options)
    frames = b"".join(wire.publication(3, message, "17", LARGEST))
    found: list[Any] = []
    while frames:
        size, each = frame.decode_frame(frames)
        found.append(each)
        frames = frames[size:]
    method, header, *bodies = found
    publish = method.method
    assert (publish.exchange, publish.routing_key) == (message.exchange, message.key)
    assert publish.mandatory is message.mandatory
    properties = header.properties
    assert properties.headers == headers
    assert (properties.message_id, properties.priority) == ("17", message.priority)
    assert properties.delivery_mode == (2 if message.lasting else 1)
    expires = message.expires_ms
    assert properties.expiration == (None if expires is None else str(expires))
    assert header.body_size == len(body)
    assert b"".join(each.fragment for each in bodies) == body
    assert all(len(each.fragment) <= LARGEST for each in bodies)
    assert {each.channel_number for each in found} == {3}


@pytest.mark.parametrize("all_before", [True, False])
def test_acknowledgements_and_gets_are_those_of_pika(all_before: bool) -> None:  # noqa: FBT001 - a test parameter
    ours = wire.acknowledgement(5, 2**40, all_before=all_before)
    assert ours == frame.Method(5, spec.Basic.Ack(2**40, all_before)).marshal()
    assert wire.get(5, "queue") == frame.Method(5, spec.Basic.Get(queue="queue")).marshal()


@pytest.mark.parametrize("headers", HEADERS)
def test_headers_that_pika_writes_are_read(headers: dict[str, Any]) -> None:
    pieces: list[bytes] = []
    data.encode_table(pieces, headers)
    assert wire.read_table(b"before" + b"".join(pieces) + b"after", 6) == headers


def test_a_text_that_is_no_utf_8_stays_bytes() -> None:
    table = b"\x01aS\x00\x00\x00\x02\xff\xfe"
    assert wire.read_table(len(table).to_bytes(4, "big") + table, 0) == {"a": b"\xff\xfe"}


class Heard:
    """An ``Arrivals`` and what it reported."""

    def __init__(self) -> None:
        self.deliveries: list[tuple[str | None, Delivery | None]] = []
        self.confirmed: list[tuple[int, bool, bool]] = []
        self.arrivals = Arrivals(
            lambda *told: self.deliveries.append(told), lambda *told: self.confirmed.append(told)
        )


class Stub(QuickConnection):
    """A connection that never connects; tests feed it bytes."""

    def __init__(self) -> None:
        self.arrivals, self._frame_buffer, self.bytes_received = {}, b"", 0
        self.left_to_pika: list[Any] = []

    def _process_frame(self, frame_value: Any) -> None:
        self.left_to_pika.append(frame_value)


@pytest.mark.parametrize("headers", HEADERS)
@pytest.mark.parametrize("bodies", [(), (b"one",), (b"one", b"two", b"three")])
@pytest.mark.parametrize("step", [1, 7, 10_000])
def test_a_delivery_is_put_together_however_it_arrives(
    headers: dict[str, Any], bodies: tuple[bytes, ...], step: int
) -> None:
    stub, heard = Stub(), Heard()
    stub.arrivals[3] = heard.arrivals
    whole = delivered(headers, *bodies, content_type="text", content_encoding="x", priority=1)
    sent = whole + whole
    for first in range(0, len(sent), step):
        stub.hear(sent[first : first + step])
    expected = Delivery(2**40, True, headers, b"".join(bodies))
    assert heard.deliveries == 2 * [("ctag1.x", expected)]
    assert (stub.bytes_received, stub.left_to_pika) == (len(sent), [])


def test_what_has_no_headers_has_none() -> None:
    stub, heard = Stub(), Heard()
    stub.arrivals[3] = heard.arrivals
    deliver = frame.Method(3, spec.Basic.GetOk(7, False, "", "queue", 0))
    plain = frame.Header(3, 1, pika.BasicProperties(content_type="text"))
    stub.hear(content(deliver, plain, frame.Body(3, b"x")))
    stub.hear(content(frame.Method(3, spec.Basic.GetEmpty())))
    assert heard.deliveries == [(None, Delivery(7, False, {}, b"x")), (None, None)]


def test_confirmations_are_heard_and_the_rest_is_left_to_pika() -> None:
    stub, heard = Stub(), Heard()
    stub.arrivals[3] = heard.arrivals
    returned = content(
        frame.Method(3, spec.Basic.Return(312, "NO_ROUTE", "", "key")),
        frame.Header(3, 1, pika.BasicProperties(message_id="4")),
        frame.Body(3, b"x"),
    )
    stub.hear(content(frame.Method(3, spec.Basic.Ack(4, True))) + returned)
    stub.hear(content(frame.Method(3, spec.Basic.Nack(5, False))))
    stub.hear(content(frame.Heartbeat(), frame.Method(9, spec.Basic.Ack(1))))
    assert heard.confirmed == [(4, True, True), (5, False, False)]
    assert [type(each).__name__ for each in stub.left_to_pika] == [
        *("Method", "Header", "Body", "Heartbeat", "Method")
    ]


def test_a_frame_without_its_end_is_an_error() -> None:
    stub, heard = Stub(), Heard()
    stub.arrivals[3] = heard.arrivals
    with pytest.raises(InvalidFrameError):
        stub.hear(delivered({}, b"x")[:-1] + b"?")


def test_fates_of_a_batch_are_told_once_all_are_confirmed() -> None:
    asyncio.run(_confirm_batches())


async def _confirm_batches() -> None:
    confirmations = Confirmations()
    first = confirmations.expect(3, asyncio.get_running_loop().create_future())
    assert confirmations.next_number == 4
    second = confirmations.expect(1, asyncio.get_running_loop().create_future())
    confirmations.returned(2)
    confirmations.confirm(2, all_before=True, taken=True)
    assert not first.done.done()
    confirmations.confirm(4, all_before=False, taken=True)
    confirmations.confirm(3, all_before=False, taken=False)
    assert first.done.done()
    assert (first.fates, second.fates) == (["taken", "unroutable", "refused"], ["taken"])


@pytest.mark.parametrize(
    ("done", "said"),
    [
        ([1], [(1, False)]),
        ([2, 1], [(2, True)]),
        ([1, 2, 4], [(2, True), (4, False)]),
        ([3, 2], [(2, False), (3, False)]),
        ([1, 2, 3, 4], [(4, True)]),
        ([4, 4, 9], [(4, False), (9, False)]),
    ],
)
def test_what_is_older_than_all_else_is_acknowledged_in_one_word(
    done: list[int], said: list[tuple[int, bool]]
) -> None:
    unacknowledged = Unacknowledged()
    for tag in (1, 2, 3, 4):
        unacknowledged.add(tag, "q")
    assert unacknowledged.done(done) == said
    assert unacknowledged.up_to(10) == sorted({1, 2, 3, 4} - {*done})
    assert len(unacknowledged) == 0


def test_nothing_is_said_of_what_a_deleted_queue_delivered() -> None:
    unacknowledged = Unacknowledged()
    for tag, queue in ((1, "a"), (2, "b"), (3, "a"), (4, "a"), (5, "b")):
        unacknowledged.add(tag, queue)
    assert unacknowledged.done([1]) == [(1, False)]
    unacknowledged.orphan("b")
    assert unacknowledged.done([2]) == []
    assert unacknowledged.done([2, 3, 4, 5]) == [(3, False), (4, False)]
    assert not unacknowledged.requeued(2)
    unacknowledged.add(6, "c")
    assert unacknowledged.requeued(6)


class Raw:
    """The part of pika's channel that publishing needs; records what is sent."""

    is_open, channel_number, largest_body = True, 3, 100

    def __init__(self) -> None:
        self.connection, self.said, self.limits = self, list[bytes](), list[int]()
        self.say = self.said.extend

    def basic_qos(self, *, prefetch_count: int, callback: Any) -> None:  # noqa: ARG002 - pika's API
        """Record the limit; never call back."""
        self.limits.append(prefetch_count)

    def _send_method(self, method: Any) -> None:
        self.said.append(method.NAME)

    def __getattr__(self, name: str) -> Any:
        return lambda *_args, **_options: None


def test_of_what_cannot_be_written_nothing_is_said() -> None:
    """The server would end the connection after half a message."""
    asyncio.run(_publish_what_cannot_be_written())


async def _publish_what_cannot_be_written() -> None:
    raw = Raw()
    channel = Channel(raw, lambda: None)
    sound = OutgoingMessage("q", b"x", {"a": "b"})
    with pytest.raises(UnicodeEncodeError):
        await channel.publish([sound, OutgoingMessage("q", b"x", {"a": "\ud800"})])
    assert raw.said == []
    publishing = asyncio.ensure_future(channel.publish([sound]))
    await asyncio.sleep(0)
    assert b"".join(raw.said) == b"".join(wire.publication(3, sound, "1", 100))
    publishing.cancel()


def test_of_many_with_one_that_cannot_be_written_none_is_said() -> None:
    """Otherwise the first messages would be published without the caller knowing."""
    raw = Raw()
    many = [*[OutgoingMessage("q", b"x", {})] * 150, OutgoingMessage("q", b"x", {"a": "\ud800"})]

    async def publish() -> None:
        await Channel(raw, lambda: None).publish(many)

    with pytest.raises(UnicodeEncodeError):
        asyncio.run(publish())
    assert raw.said == []


def test_a_question_does_not_undo_the_limit_of_a_consumer_that_begins() -> None:
    """Without a limit, the server would deliver the whole queue and count it as lost with us."""
    asyncio.run(_ask_while_a_consumer_begins())


async def _ask_while_a_consumer_begins() -> None:
    raw = Raw()
    channel = Channel(raw, lambda: None)
    consuming = asyncio.ensure_future(channel.consume("q", 4, lambda _: None))
    await asyncio.sleep(0)
    asking = asyncio.ensure_future(channel.catch_up())
    await asyncio.sleep(0)
    assert raw.limits == [4, 4]
    for waiting in (consuming, asking):
        waiting.cancel()


def test_nothing_is_said_on_a_closed_channel() -> None:
    """The server would end the connection with all its other channels."""
    asyncio.run(_say_on_a_closed_channel())


async def _say_on_a_closed_channel() -> None:
    raw = Raw()
    channel = Channel(raw, lambda: None)
    raw.is_open = False
    for call in (channel.cancel(["c"]), channel.consume("q", 0, lambda _: None), channel.get("q")):
        with pytest.raises(ChannelClosed):
            await call
    channel.ack(1)
    channel.requeue(2)
    assert raw.said == []


def test_large_frames_are_not_put_together() -> None:
    large, small = bytes(PIECE_BYTES), b"small"
    frames = [small, small, large, large, small, small]
    pieces = [*pieces_of(frames)]
    assert b"".join(pieces) == b"".join(frames)
    assert pieces == [2 * small, large, large, 2 * small]


def test_the_private_names_of_pika_that_we_use_are_there() -> None:
    for owner, names in {
        AsyncioConnection: (
            *("_adapter_emit_data", "_on_data_available", "_output_marshaled_frames"),
            "_process_frame",
        ),
        BaseConnection: ("_proto_connection_made",),
        PikaChannel: ("_send_method", "_cleanup_consumer_ref"),
    }.items():
        assert [name for name in names if not callable(getattr(owner, name, None))] == []

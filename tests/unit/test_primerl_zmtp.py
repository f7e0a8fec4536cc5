"""ZMTP as a ROUTER without security: what clients send, byte by byte."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from agentpipe.primerl.zmtp import (
    MAX_MESSAGE_BYTES,
    MAX_PARTS,
    Malformed,
    message,
    next_message,
    shake_hands,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

GREETING = b"\xff" + bytes(8) + b"\x7f\x03\x01" + b"NULL".ljust(20, b"\0") + bytes(32)
READY = b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06DEALER"


class Written(bytearray):
    """The bytes given to a writer."""

    def write(self, data: bytes) -> None:
        self.extend(data)


def conversation(data: bytes) -> tuple[list[list[bytes]], bytes]:
    """The messages of a client that sends ``data`` and disconnects, and the bytes sent to it."""
    written, messages = Written(), list[list[bytes]]()

    async def talk() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        reader.feed_eof()
        await shake_hands(reader, written)  # type: ignore[arg-type]
        while True:
            messages.append(await next_message(reader, written))  # type: ignore[arg-type]

    with pytest.raises(asyncio.IncompleteReadError):
        asyncio.run(talk())
    return messages, bytes(written)


@pytest.mark.parametrize(
    "parts", [[b"a"], [b"", b""], [b"id", b"run", b"x" * 255], [b"id", b"run", b"x" * 70_000]]
)
def test_a_message_is_read_as_it_was_sent(parts: Sequence[bytes]) -> None:
    sent = b"".join(message(parts))
    assert conversation(GREETING + READY + sent + sent)[0] == [parts, parts]


def test_a_client_is_greeted_as_by_a_router() -> None:
    _, written = conversation(GREETING + READY)
    assert written[:12] == b"\xff" + bytes(8) + b"\x7f\x03\x00"
    assert written[12:64] == b"NULL" + bytes(48)
    assert written[64:] == b"\x04\x1c\x05READY\x0bSocket-Type\x00\x00\x00\x06ROUTER"


def test_a_heartbeat_is_answered_between_the_parts_of_a_message() -> None:
    ping = b"\x04\x09\x04PING\x00\x0aab"
    messages, written = conversation(GREETING + READY + b"\x01\x01a" + ping + b"\x00\x01b")
    assert messages == [[b"a", b"b"]]
    assert written.endswith(b"\x04\x07\x04PONGab")


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n" * 4, "not a client"),
        (GREETING.replace(b"\x7f\x03", b"\x7f\x01") + READY, "not a client"),
        (GREETING.replace(b"NULL\0", b"CURVE") + READY, "security"),
        (GREETING + READY.replace(b"DEALER", b"PULLER"), "not the socket"),
        (GREETING + b"\x00\x01a", "not the socket"),
        (GREETING + READY + b"\xf0", "not a frame"),
        (GREETING + READY + b"\x02" + (MAX_MESSAGE_BYTES + 1).to_bytes(8, "big"), "more than"),
        (GREETING + READY + b"\x01\x00" * (MAX_PARTS + 1), "parts"),
    ],
)
def test_what_is_none_is_refused_before_it_is_read(data: bytes, said: str) -> None:
    async def talk() -> None:
        reader = asyncio.StreamReader()
        reader.feed_data(data)
        await shake_hands(reader, Written())  # type: ignore[arg-type]
        await next_message(reader, Written())  # type: ignore[arg-type]

    with pytest.raises(Malformed, match=said):
        asyncio.run(asyncio.wait_for(talk(), 30))

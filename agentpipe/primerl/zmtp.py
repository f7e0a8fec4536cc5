"""ZMTP 3: ZeroMQ's messages on a TCP connection, from the ROUTER's side.

Implemented here because a library's ROUTER does not report a client that has connected but is
silent: after a restart of the server its answers could not be sent. Security is NULL, the only
mechanism that environment servers know.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from agentpipe.core.task import MAX_TASK_BYTES

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Iterator, Sequence

MAX_MESSAGE_BYTES = 4 * MAX_TASK_BYTES
MAX_PARTS = 16
_MORE, _LONG, _COMMAND = 1, 2, 4
_MAX_SHORT = 255
_NULL = b"NULL".ljust(20, b"\0")
_GREETING = b"\xff" + bytes(8) + b"\x7f" + b"\x03\x00" + _NULL + bytes(32)
_GREETING_BYTES, _VERSION_AT, _MECHANISM = 64, 10, slice(12, 32)


class Malformed(Exception):  # noqa: N818 - describes what the client sent
    """A client sent something that is not ZMTP, or is too large."""


async def shake_hands(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Perform the handshake with a new client.

    Raises:
        Malformed: The client does not speak this protocol.
        asyncio.IncompleteReadError: The client has disconnected.
    """
    writer.write(_GREETING)
    greeting = await reader.readexactly(_GREETING_BYTES)
    if greeting[0] != _GREETING[0] or greeting[9] != _GREETING[9] or greeting[_VERSION_AT] < 3:  # noqa: PLR2004 - ZMTP 3
        raise Malformed("not a client of ZeroMQ 4 or later")
    if greeting[_MECHANISM] != _NULL:
        raise Malformed("the client asks for a security mechanism, and this server has none")
    writer.write(_ready())
    flags, body = await _frame(reader, MAX_MESSAGE_BYTES)
    if not flags & _COMMAND or not body.startswith(b"\x05READY") or b"\x06DEALER" not in body:
        raise Malformed("not the socket of an environment's client")


def _ready() -> bytes:
    socket_type = b"\x0bSocket-Type" + struct.pack(">I", 6) + b"ROUTER"
    return encoded(b"\x05READY" + socket_type, _COMMAND)


async def next_message(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> list[bytes]:
    """The parts of the next message; answers heartbeats in between.

    Raises:
        Malformed: It is not a message, or it is too large.
        asyncio.IncompleteReadError: The client has disconnected.
    """
    parts: list[bytes] = []
    room = MAX_MESSAGE_BYTES
    while True:
        flags, body = await _frame(reader, room)
        if flags & _COMMAND:
            _answer(body, writer)
            continue
        parts.append(body)
        room -= len(body)
        if not flags & _MORE:
            return parts
        if len(parts) == MAX_PARTS:
            raise Malformed(f"a message of more than {MAX_PARTS} parts")


async def _frame(reader: asyncio.StreamReader, most: int) -> tuple[int, bytes]:
    flags = (await reader.readexactly(1))[0]
    if flags & ~(_MORE | _LONG | _COMMAND):
        raise Malformed("not a frame of ZMTP")
    size = int.from_bytes(await reader.readexactly(8 if flags & _LONG else 1), "big")
    if size > most:
        raise Malformed(f"a message of more than {MAX_MESSAGE_BYTES:,} bytes")
    return flags, await reader.readexactly(size)


def _answer(command: bytes, writer: asyncio.StreamWriter) -> None:
    """Answer a PING: skip its time to live, which is for the client, and echo its context."""
    if command.startswith(b"\x04PING"):
        writer.write(encoded(b"\x04PONG" + command[7:], _COMMAND))


def message(parts: Sequence[bytes]) -> Iterator[bytes]:
    """The bytes of a message, piece by piece, to avoid copying large parts."""
    for number, part in enumerate(parts, 1):
        yield _head(len(part), _MORE if number < len(parts) else 0)
        yield part


def encoded(body: bytes, flags: int = 0) -> bytes:
    """One frame."""
    return _head(len(body), flags) + body


def _head(size: int, flags: int) -> bytes:
    if size <= _MAX_SHORT:
        return struct.pack(">BB", flags, size)
    return struct.pack(">BQ", flags | _LONG, size)

"""Server-sent events, as far as streams of models use them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.engines.http.bodies import MAX_BODY_BYTES, BodyTooLargeError

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


@dataclass(frozen=True, slots=True)
class Event:
    """One event; most have no name."""

    name: str
    data: bytes


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """The events with data, the last one even if the stream ends in it.

    Raises:
        BodyTooLargeError: A line has more than ``MAX_BODY_BYTES``.
    """
    name, data = "", list[bytes]()
    async for line in _lines(chunks):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode(errors="replace")
        elif not line:
            if data:
                yield Event(name, b"\n".join(data))
            name, data = "", []
    if data:
        yield Event(name, b"\n".join(data))


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split at line feeds only: JSON may hold the other characters that end a line."""
    parts: list[bytes] = []
    size = 0
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield b"".join((*parts, line)).removesuffix(b"\r")
            parts, size = [], 0
        parts.append(rest)
        size += len(rest)
        if size > MAX_BODY_BYTES:
            raise BodyTooLargeError(MAX_BODY_BYTES)
    yield b"".join(parts).removesuffix(b"\r")

"""Server-sent events, as far as models' streams use them."""

from __future__ import annotations

from codecs import BOM_UTF8
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core import caps
from agentpipe.core.caps import CapExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator


# Python's overhead for a line, besides its bytes.
_LINE_BYTES = 64


@dataclass(frozen=True, slots=True)
class Event:
    """One event; the name is usually empty."""

    name: str
    data: bytes


async def events(chunks: AsyncIterator[bytes]) -> AsyncIterator[Event]:
    """Yield events that have data, including a last one without its final empty line.

    Raises:
        CapExceeded: An event or a line is larger than ``MAX_MESSAGE_BYTES``.
    """
    name, data, size = "", list[bytes](), 0
    async for line in _lines(chunks):
        if line.startswith(b"data:"):
            data.append(line[5:].removeprefix(b" "))
            size += len(line) + _LINE_BYTES
            _refuse_beyond_cap(size)
        elif line.startswith(b"event:"):
            name = line[6:].strip().decode(errors="replace")
        elif not line:
            if data:
                yield Event(name, b"\n".join(data))
            name, data, size = "", [], 0
    if data:
        yield Event(name, b"\n".join(data))


async def _lines(chunks: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    """Split at line feeds only: JSON can contain other characters that count as line ends."""
    begun, mark = bytearray(), BOM_UTF8  # The first line can begin with a byte order mark.
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for line in whole:
            yield bytes(begun + line).removeprefix(mark).removesuffix(b"\r")
            begun.clear()
            mark = b""
        begun += rest
        _refuse_beyond_cap(len(begun))
    yield bytes(begun).removeprefix(mark).removesuffix(b"\r")


def _refuse_beyond_cap(size: int) -> None:
    if size > caps.MAX_MESSAGE_BYTES:
        raise CapExceeded("bytes in an event", caps.MAX_MESSAGE_BYTES, "MAX_MESSAGE_BYTES")

"""Pipes to and from a child, as streams on the current event loop."""

from __future__ import annotations

import asyncio
import os
import re
from contextlib import suppress

from agentpipe.core.caps import STDERR_END_BYTES
from agentpipe.core.masking import shorten
from agentpipe.errors import AnswerError

# Kept and masked before the text is cut to its final length.
_READ_END_BYTES = 65_536
_SPACE = re.compile(r"\s")
CHUNK_BYTES = 65_536


async def write(number: int, data: bytes) -> None:
    """Write ``data``; a reader that closes early is not an error."""
    async with PipeWriter(number) as writer:
        with suppress(ConnectionError):
            writer.write(data)
            await writer.drain()


async def read(number: int, max_bytes: int) -> bytes:
    """Read to the end.

    Raises:
        AnswerError: There are more than ``max_bytes``.
    """
    data = bytearray()
    async with PipeReader(number) as reader:
        while chunk := await reader.read(CHUNK_BYTES):
            data += chunk
            if len(data) > max_bytes:
                raise AnswerError(
                    f"the command wrote more than {max_bytes:,} bytes: "
                    "raise max_output_bytes, or store the data and answer with its address"
                )
    return bytes(data)


async def read_end(number: int) -> str:
    """Read to the end; return the last ``STDERR_END_BYTES`` as a string, masked before the cut.

    A word that would be cut is left out.
    """
    tail = b""
    async with PipeReader(number) as reader:
        while chunk := await reader.read(CHUNK_BYTES):
            tail = (tail + chunk)[-_READ_END_BYTES - 1 :]
    text = tail.decode(errors="replace")
    if len(tail) > _READ_END_BYTES:
        text = _from_a_whole_word(text)
    text = text.strip()
    end = shorten(text, STDERR_END_BYTES, keep_end=True)
    return end if len(end) < STDERR_END_BYTES or end == text else _from_a_whole_word(end)


def _from_a_whole_word(text: str) -> str:
    return "".join(_SPACE.split(text, maxsplit=1)[1:]).strip()


class PipeWriter:
    """The writing end of a pipe as a stream; leaving the block drops unwritten data."""

    def __init__(self, number: int) -> None:
        self._pipe = os.fdopen(number, "wb", buffering=0)

    async def __aenter__(self) -> asyncio.StreamWriter:
        loop = asyncio.get_running_loop()
        self._transport, protocol = await loop.connect_write_pipe(
            asyncio.streams.FlowControlMixin, self._pipe
        )
        return asyncio.StreamWriter(self._transport, protocol, None, loop)

    async def __aexit__(self, *_: object) -> None:
        if not self._transport.is_closing():  # The child may have closed its end already.
            self._transport.abort()


class PipeReader:
    """The reading end of a pipe as a stream."""

    def __init__(self, number: int, max_line_bytes: int = CHUNK_BYTES) -> None:
        self._pipe = os.fdopen(number, "rb", buffering=0)
        self._max_line_bytes = max_line_bytes

    async def __aenter__(self) -> asyncio.StreamReader:
        loop = asyncio.get_running_loop()
        reader = asyncio.StreamReader(limit=self._max_line_bytes)
        self._transport, _ = await loop.connect_read_pipe(
            lambda: asyncio.StreamReaderProtocol(reader), self._pipe
        )
        return reader

    async def __aexit__(self, *_: object) -> None:
        self._transport.close()

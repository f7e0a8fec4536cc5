"""Bodies of responses: a server that sends without end must not fill the worker's memory."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

MAX_BODY_BYTES = 128 * 1024 * 1024


class BodyTooLargeError(Exception):
    """A body, or one event of a stream, has more bytes than any answer."""

    def __init__(self, max_bytes: int) -> None:
        super().__init__(f"it sent more than {max_bytes:,} bytes")


async def limited(
    chunks: AsyncIterator[bytes], max_bytes: int | None = None
) -> AsyncIterator[bytes]:
    """The chunks.

    Raises:
        BodyTooLargeError: They have more than ``max_bytes``, or ``MAX_BODY_BYTES``, together.
    """
    read, max_bytes = 0, max_bytes or MAX_BODY_BYTES
    async for chunk in chunks:
        read += len(chunk)
        if read > max_bytes:
            raise BodyTooLargeError(max_bytes)
        yield chunk


async def whole(chunks: AsyncIterator[bytes], max_bytes: int | None = None) -> bytes:
    """All of them joined; see ``limited``."""
    return b"".join([chunk async for chunk in limited(chunks, max_bytes)])

"""Bodies of responses: an endless response must not fill the worker's memory."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from agentpipe.core import caps
from agentpipe.core.caps import CapExceeded

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    import httpx2


async def chunks(response: httpx2.Response) -> AsyncIterator[bytes]:
    """Yield the decoded body. The client decodes at most 1 MiB at a time.

    Raises:
        CapExceeded: It has more than ``MAX_BODY_BYTES`` or ``MAX_BODY_LINES``, or is encoded more
            than once: a few bytes can expand in one decoder and keep the next one busy for hours,
            even without producing output.
    """
    refuse_encodings(response)
    read = lines = 0
    async for chunk in response.aiter_bytes():
        read += len(chunk)
        if read > caps.MAX_BODY_BYTES:
            raise CapExceeded("bytes in a response", caps.MAX_BODY_BYTES, "MAX_BODY_BYTES")
        lines += chunk.count(b"\n")
        if lines > caps.MAX_BODY_LINES:
            raise CapExceeded("lines in a response", caps.MAX_BODY_LINES, "MAX_BODY_LINES")
        yield chunk
        await asyncio.sleep(0)  # Data that arrived at once can expand to many chunks.


def refuse_encodings(response: httpx2.Response) -> None:
    """Refuse stacked content encodings, for the reason given in ``chunks``.

    Raises:
        CapExceeded: It is encoded more than once.
    """
    if "," in response.headers.get("content-encoding", ""):
        raise CapExceeded("content encoding", 1, "MAX_ENCODINGS")


async def whole(response: httpx2.Response) -> bytes:
    """The complete body, within the caps of ``chunks``."""
    body = bytearray()
    async for chunk in chunks(response):
        body += chunk
    return bytes(body)

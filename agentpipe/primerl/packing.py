"""Payloads on the wire: msgpack, which the extra ``prime-rl`` installs."""

from __future__ import annotations

from typing import Any

from agentpipe.core.distribution import needs_extra
from agentpipe.core.masking import shorten
from agentpipe.errors import TaskError


def require_msgpack() -> Any:
    """Import msgpack.

    Raises:
        MissingExtra: msgpack is not installed.
    """
    with needs_extra("prime-rl's environment clients speak msgpack", "prime-rl", "msgpack"):
        import msgpack
    return msgpack


def packed(value: Any) -> bytes:
    """The payload of an answer."""
    data: bytes = require_msgpack().packb(value, use_bin_type=True)
    return data


def unpacked(payload: bytes) -> Any:
    """Decode what a client sent.

    Raises:
        TaskError: The payload is malformed.
    """
    msgpack = require_msgpack()
    try:
        return msgpack.unpackb(payload, raw=False)
    except (msgpack.UnpackException, ValueError, TypeError, RecursionError) as error:
        raise TaskError(f"the request is not msgpack: {shorten(str(error), 200)}") from error

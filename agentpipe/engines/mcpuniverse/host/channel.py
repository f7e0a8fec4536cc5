"""ParentChannel: JSON objects, one per line, over a socket."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import math
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

MAX_DEPTH = 100


class ParentChannel:
    """The parent's requests and our replies; ``send`` is thread-safe."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def requests(self) -> Iterator[dict[str, Any]]:
        """Yield the parent's requests until it closes the connection."""
        with self._sock.makefile("rb") as lines:
            try:
                yield from map(json.loads, lines)
            except (ConnectionError, json.JSONDecodeError):
                return  # The parent died, possibly in the middle of a line.

    def send(self, message: dict[str, Any]) -> None:
        """Send a message, with any values that an agent put into it.

        A closed connection is ignored here, because it also ends ``requests``.
        """
        data = encoded(message)
        with self._lock, contextlib.suppress(OSError):
            self._sock.sendall(data)


def encoded(message: dict[str, Any]) -> bytes:
    """A line of strict JSON: no NaN, no lone surrogates."""
    try:
        text = json.dumps(message, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(_plain(message, 0), ensure_ascii=False, allow_nan=False)
    # A lone surrogate becomes U+FFFD.
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    return text.encode() + b"\n"


def _plain(value: Any, depth: int) -> Any:
    """``value`` as JSON: models and dataclasses as objects, other objects as ``str(value)``."""
    if value is None or isinstance(value, (str, bool, int)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if depth > MAX_DEPTH:
        return "..."
    if isinstance(value, dict):
        return {str(name): _plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [_plain(item, depth + 1) for item in value]
    return _plain(_unpacked(value), depth + 1)


def _unpacked(value: Any) -> Any:
    try:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        return str(value)
    except Exception as error:  # noqa: BLE001 - foreign code
        return f"<{type(value).__name__}: {type(error).__name__}>"

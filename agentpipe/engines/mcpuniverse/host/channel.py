"""Channel: JSON objects, one a line, over a socket; threads may write at the same time."""

from __future__ import annotations

import dataclasses
import json
import math
import threading
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import socket
    from collections.abc import Iterator

MAX_DEPTH = 100


class Channel:
    """Both directions of the conversation with the parent."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock
        self._lock = threading.Lock()

    def requests(self) -> Iterator[dict[str, Any]]:
        """What the parent asks, until it hangs up."""
        with self._sock.makefile("rb") as lines:
            try:
                yield from map(json.loads, lines)
            except (ConnectionError, json.JSONDecodeError):
                return  # The parent died, perhaps in the middle of a line.

    def send(self, message: dict[str, Any]) -> None:
        """Send what may hold anything that agents put into a trace.

        A parent that hung up is no error: ``requests`` ends as well.
        """
        data = encoded(message)
        with self._lock:
            try:
                self._sock.sendall(data)
            except OSError:
                return


def encoded(message: dict[str, Any]) -> bytes:
    """A line of strict JSON: no NaN, no half of a surrogate pair."""
    try:
        text = json.dumps(message, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        text = json.dumps(_plain(message, 0), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace") + b"\n"


def _plain(value: Any, depth: int) -> Any:
    """``value`` as JSON: models and dataclasses as objects, anything unknown as its text."""
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
    return _plain(_opened(value), depth + 1)


def _opened(value: Any) -> Any:
    try:
        if hasattr(value, "model_dump"):
            return value.model_dump(mode="json")
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return dataclasses.asdict(value)
        return str(value)
    except Exception as error:  # noqa: BLE001 - it is others' code that is called here
        return f"<{type(value).__name__}: {type(error).__name__}>"

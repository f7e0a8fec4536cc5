"""HeldTime: time in which a run waited through no fault of its own, which limits exclude."""

from __future__ import annotations

import threading
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_current: ContextVar[HeldTime | None] = ContextVar("agentpipe_held_time", default=None)


class HeldTime:
    """Held time of one run; overlapping holds count once. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held_s, self._since, self._holders = 0.0, 0.0, 0

    def begin(self) -> None:
        """Start a hold."""
        with self._lock:
            if not self._holders:
                self._since = time.monotonic()
            self._holders += 1

    def end(self) -> None:
        """End a hold."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._held_s += time.monotonic() - self._since

    @property
    def is_held(self) -> bool:
        """Whether the run is held now."""
        return self._holders > 0

    @property
    def seconds(self) -> float:
        """Total held time until now, in seconds."""
        with self._lock:
            now_s = time.monotonic() - self._since if self._holders else 0.0
            return self._held_s + now_s


@contextmanager
def counting(held: HeldTime | None) -> Iterator[None]:
    """Exclude the time counted by ``held`` from limits within the block."""
    token = _current.set(held)
    try:
        yield
    finally:
        _current.reset(token)


def held_time() -> HeldTime | None:
    """Return the current run's held time; None if nothing can hold it."""
    return _current.get()

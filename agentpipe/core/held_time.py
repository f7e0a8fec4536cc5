"""HeldTime: for how long a run was held by what is not its doing, and so does not count."""

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
    """Of one run; what is held at once counts once. From any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held_s, self._since, self._holders = 0.0, 0.0, 0

    def begin(self) -> None:
        """Something holds the run from now on."""
        with self._lock:
            if not self._holders:
                self._since = time.monotonic()
            self._holders += 1

    def end(self) -> None:
        """And no more."""
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._held_s += time.monotonic() - self._since

    @property
    def is_held(self) -> bool:
        """Whether it is held now."""
        return self._holders > 0

    @property
    def seconds(self) -> float:
        """All of it until now."""
        with self._lock:
            now_s = time.monotonic() - self._since if self._holders else 0.0
            return self._held_s + now_s


@contextmanager
def counting(held: HeldTime | None) -> Iterator[None]:
    """Let limits of what runs within leave out what ``held`` counts."""
    token = _current.set(held)
    try:
        yield
    finally:
        _current.reset(token)


def held_time() -> HeldTime | None:
    """That of the current run; None where nothing can hold it."""
    return _current.get()

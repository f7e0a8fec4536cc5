"""Pending: the result of one task, for all callers that wait for it."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.core.result import Result
    from agentpipe.errors import AgentpipeError


class Pending:
    """Settled once, by any thread.

    Attributes:
        task_id: Whose result it is.
        after: A position in an archive: results up to it are those of earlier tasks of this id.
        past: The result may have been published before this object existed.
    """

    __slots__ = ("__weakref__", "_callbacks", "_lock", "_outcome", "after", "past", "task_id")

    def __init__(self, task_id: str, *, past: bool = False, after: int = 0) -> None:
        self.task_id, self.past, self.after = task_id, past, after
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._outcome: Result | AgentpipeError | None = None

    @property
    def is_settled(self) -> bool:
        """Whether ``get`` may be called."""
        return self._outcome is not None

    @property
    def is_awaited(self) -> bool:
        """Whether a caller waits now."""
        return bool(self._callbacks)

    def serves_for(self, other: Pending) -> bool:
        """Whether it may be used in place of another one of its task's id."""
        if self._outcome is None:
            return True
        return other.past and not isinstance(self._outcome, Exception)

    def settle(self, outcome: Result | AgentpipeError) -> None:
        """Note what became of it, unless that is known, and call all who wait."""
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = outcome
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def call(self, callback: Callable[[], None]) -> None:
        """Call once it is settled, in the thread that settles it, or now."""
        with self._lock:
            if self._outcome is None:
                self._callbacks.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Do not call any more."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def get(self) -> Result:
        """The result; raises the error that it was settled with."""
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

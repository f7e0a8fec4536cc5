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
        task_id: The task whose result it is.
        after: A position in an archive: results up to it belong to earlier tasks with this id.
        past: Whether the result can have been published before this object existed.
    """

    __slots__ = ("__weakref__", "_callbacks", "_lock", "_outcome", "after", "past", "task_id")

    def __init__(self, task_id: str, *, past: bool = False, after: int = 0) -> None:
        self.task_id, self.past, self.after = task_id, past, after
        self._lock = threading.Lock()
        self._callbacks: list[Callable[[], None]] = []
        self._outcome: Result | AgentpipeError | None = None

    @property
    def is_settled(self) -> bool:
        """Whether ``get`` can be called."""
        return self._outcome is not None

    @property
    def is_awaited(self) -> bool:
        """Whether a caller is waiting."""
        return bool(self._callbacks)

    def serves_for(self, other: Pending) -> bool:
        """Whether it can replace another Pending of the same task id."""
        if self._outcome is None:
            return True
        return other.past and not isinstance(self._outcome, Exception)

    def settle(self, outcome: Result | AgentpipeError) -> None:
        """Set the outcome unless it is set, and call all waiting callers."""
        with self._lock:
            if self._outcome is not None:
                return
            self._outcome = outcome
            callbacks, self._callbacks = self._callbacks, []
        for callback in callbacks:
            callback()

    def call(self, callback: Callable[[], None]) -> None:
        """Call ``callback`` once settled, in the settling thread, or now if already settled."""
        with self._lock:
            if self._outcome is None:
                self._callbacks.append(callback)
                return
        callback()

    def forget(self, callback: Callable[[], None]) -> None:
        """Remove the callback."""
        with self._lock:
            if callback in self._callbacks:
                self._callbacks.remove(callback)

    def get(self) -> Result:
        """Return the result, or raise the error that it was settled with."""
        assert self._outcome is not None
        if isinstance(self._outcome, Exception):
            raise self._outcome
        return self._outcome

"""Marks of threads: which run each one works for, written where another process can read it.

A run that holds the interpreter in a thread is found by its thread: nothing in the process itself
can run to say so.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from concurrent.futures import Future

NO_RUN = -1
# The place of the current run in the worker's last word; what the run starts inherits it.
run_place: ContextVar[int] = ContextVar("agentpipe_run_place", default=NO_RUN)


class Marks(Protocol):
    """Where the marks are written."""

    def enter_thread(self, place: int) -> int:
        """The current thread works for the run at ``place``; returns the number of the mark."""

    def leave_thread(self, mark: int) -> None:
        """It works for it no longer."""


_written: list[Marks] = []


def write_marks_to(marks: Marks) -> None:
    """Have marks written there from now on; without it they are not written."""
    _written[:] = [marks]


@contextmanager
def marked(place: int) -> Iterator[None]:
    """Mark the current thread as that of a run, if it is of one."""
    if place == NO_RUN or not _written:
        yield
        return
    (marks,) = _written
    mark = marks.enter_thread(place)
    try:
        yield
    finally:
        marks.leave_thread(mark)


class MarkingExecutor(ThreadPoolExecutor):
    """Marks its threads with the run that submits to it: for ``asyncio.to_thread``."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``function`` in a thread that is marked meanwhile."""
        return super().submit(_marked_call, run_place.get(), function, args, kwargs)


def _marked_call(place: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with marked(place):
        return function(*args, **kwargs)

"""Thread marks: which run each thread works for, written where another process can read it.

If a run's thread holds the interpreter lock, nothing in the process itself can run to report it.
Another process finds the run by its thread.
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
# The current run's place in the worker's last word; code started by the run inherits it.
run_place: ContextVar[int] = ContextVar("agentpipe_run_place", default=NO_RUN)


class Marks(Protocol):
    """Stores the marks."""

    def enter_thread(self, place: int) -> int:
        """Mark the current thread as working for the run at ``place``; return the mark's number."""

    def leave_thread(self, mark: int) -> None:
        """Remove the mark."""


_written: list[Marks] = []


def write_marks_to(marks: Marks) -> None:
    """Write marks to ``marks`` from now on; before this call none are written."""
    _written[:] = [marks]


@contextmanager
def marked(place: int) -> Iterator[None]:
    """Mark the current thread with its run, if it works for one."""
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
    """Marks its threads with the run that submits to it, for ``asyncio.to_thread``."""

    def submit(self, function: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """Run ``function`` in a thread that is marked for the duration."""
        return super().submit(_marked_call, run_place.get(), function, args, kwargs)


def _marked_call(place: int, function: Callable[..., Any], args: Any, kwargs: Any) -> Any:
    with marked(place):
        return function(*args, **kwargs)

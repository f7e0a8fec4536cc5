"""Programs: ends the programs that a run starts on this machine when the run ends.

An agent on the worker's loop, or in one of its threads, starts programs as children of the worker,
and only the time of the start shows which run they belong to. The interpreter reports each start in
advance, in the thread and context that starts the program: the thread's next child belongs to the
run. Without Linux's ``/proc``, no programs are found.
"""

from __future__ import annotations

import inspect
import logging
import sys
import threading
from contextvars import ContextVar, Token
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.core.processes import stat_of
from agentpipe.core.text import counted
from agentpipe.engines.process.process_tree import kill_tree

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

# https://docs.python.org/3/library/audit_events.html. Forks are not included: a process pool also
# serves later runs.
_STARTS = frozenset({"subprocess.Popen", "os.posix_spawn"})

log = logging.getLogger(__name__)
_current: ContextVar[Programs | None] = ContextVar("programs", default=None)
_lock = threading.Lock()
# By thread: the run that last started a program there, and the thread's children before that.
_last: dict[int, tuple[Programs, frozenset[int]]] = {}


class Programs:
    """The programs of one run; thread-safe."""

    __slots__ = ("_found", "_token")

    def __init__(self) -> None:
        self._found: dict[int, str] = {}
        self._token: Token[Programs | None] | None = None
        _watch()

    def __enter__(self) -> None:
        """Programs started in the block belong to the run, and end with the block."""
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _current.reset(self._token)
        self.end()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run ``function()``, or its coroutine; programs that it started end with it."""
        token = _current.set(self)
        try:
            value = function()
        except BaseException:
            self.end()
            raise
        finally:
            _current.reset(token)
        if inspect.isawaitable(value):
            return self._awaited(value)
        self.end()
        return value

    async def _awaited(self, value: Awaitable[Any]) -> Any:
        with self:
            return await value

    def end(self) -> None:
        """End the programs that are still running."""
        if not (_last or self._found):
            return
        with _lock:
            for thread in [thread for thread, (run, _) in _last.items() if run is self]:
                _settle(thread)
            left = [pid for pid, birth in self._found.items() if birth == _birth(pid) != ""]
            self._found.clear()
        for pid in left:
            kill_tree(pid)
        if left:
            log.info("ended %s that a run left behind", counted(len(left), "program"))

    def add(self, pid: int) -> None:
        """Add a program of this run."""
        self._found[pid] = _birth(pid)


@cache
def _watch() -> None:
    """Install the audit hook, which cannot be removed and costs each audited event a little."""
    sys.addaudithook(_hear)


def _hear(event: str, _: tuple[Any, ...]) -> None:
    if event in _STARTS:
        run, thread = _current.get(), threading.get_native_id()
        with _lock:
            _settle(thread)
            if run is not None:
                _last[thread] = (run, frozenset(_children(thread)))


def _settle(thread: int) -> None:
    """Assign the thread's first new child since its last start to the run that started it."""
    run, before = _last.pop(thread, (None, frozenset()))
    if run is not None:
        for pid in [pid for pid in _children(thread) if pid not in before][:1]:
            run.add(pid)


def _children(thread: int) -> list[int]:
    """A thread's children, in the order of their start."""
    try:
        return list(map(int, Path(f"/proc/self/task/{thread}/children").read_text().split()))
    except OSError:
        return []


def _birth(pid: int) -> str:
    """A process's start time, as its pid can be reused; empty if it is not running."""
    stat = stat_of(pid)
    return "" if stat is None or stat.has_ended else stat.started

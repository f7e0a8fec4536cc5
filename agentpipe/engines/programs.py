"""Programs: what a run starts on this machine, ended with the run.

An agent on the worker's loop or in one of its threads starts programs as the worker's own
children, and nothing but the moment tells whose they are. The interpreter reports each start
beforehand, in the thread and context that starts it: the next child of that thread is the run's.
Without Linux's ``/proc`` nothing is found.
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

# https://docs.python.org/3/library/audit_events.html. Forks go without: a pool of processes is made
# to serve later runs as well.
_STARTS = frozenset({"subprocess.Popen", "os.posix_spawn"})

log = logging.getLogger(__name__)
_current: ContextVar[Programs | None] = ContextVar("programs", default=None)
_lock = threading.Lock()
# By thread, the run that started its last program, and the children that it had before.
_last: dict[int, tuple[Programs, frozenset[int]]] = {}


class Programs:
    """The programs of one run; methods are safe in any thread."""

    __slots__ = ("_found", "_token")

    def __init__(self) -> None:
        self._found: dict[int, str] = {}
        self._token: Token[Programs | None] | None = None
        _watch()

    def __enter__(self) -> None:
        """What is started from here on belongs to the run, and ends with the block."""
        self._token = _current.set(self)

    def __exit__(self, *_: object) -> None:
        assert self._token is not None
        _current.reset(self._token)
        self.end()

    def call(self, function: Callable[[], Any]) -> Any:
        """Run ``function()`` or its coroutine; what it started ends with it."""
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
        """End what still runs."""
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
        """A program of this run."""
        self._found[pid] = _birth(pid)


@cache
def _watch() -> None:
    """An audit hook stays for good, and costs each audited event a little."""
    sys.addaudithook(_hear)


def _hear(event: str, _: tuple[Any, ...]) -> None:
    if event in _STARTS:
        run, thread = _current.get(), threading.get_native_id()
        with _lock:
            _settle(thread)
            if run is not None:
                _last[thread] = (run, frozenset(_children(thread)))


def _settle(thread: int) -> None:
    """Give the first child since the thread's last start to its run."""
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
    """A running process's start, which its pid alone does not identify; else empty."""
    stat = stat_of(pid)
    return "" if stat is None or stat.has_ended else stat.started

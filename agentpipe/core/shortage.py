"""Shortage: whether a run failed because its machine ran out of a resource.

Threads, processes, file descriptors, memory and disk are shared by all runs of a worker. Which run
fails first when they run out says nothing about its agent.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

from agentpipe.core.causes import attribute
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Iterator

# What has run out, by errno.
EXHAUSTED = {
    errno.EMFILE: "open files",
    errno.ENFILE: "open files of the machine",
    errno.ENOMEM: "memory",
    errno.ENOSPC: "disk space",
    errno.EDQUOT: "disk quota",
    errno.ENOBUFS: "network buffers",
}
NO_THREAD = "can't start new thread"
# EAGAIN also means "nothing to read yet"; raised by these modules, it means that no process can be
# started.
_STARTERS = frozenset({"subprocess", "multiprocessing.popen_fork", "pty"})


def shortage_of(error: BaseException) -> str:
    """Return the exhausted resource, judging by the error and its causes; empty if none."""
    return next(filter(None, map(_shortage_of, _history(error))), "")


def _shortage_of(error: BaseException) -> str:
    if isinstance(error, AgentFailed):
        return error.shortage
    if isinstance(error, RuntimeError):
        return "threads" if NO_THREAD in first_argument(error) else ""
    if isinstance(error, BlockingIOError):
        return "processes" if raised_in(error)[0] in _STARTERS else ""
    if isinstance(error, OSError):
        return EXHAUSTED.get(error.errno or 0, "")
    if isinstance(error, MemoryError):
        return "memory"
    return "disk space" if attribute(error, "sqlite_errorname") == "SQLITE_FULL" else ""


def first_argument(error: BaseException) -> str:
    """Return the first argument, usually the message; an error's own ``__str__`` can raise."""
    argument = error.args[0] if error.args else ""
    return argument if isinstance(argument, str) else ""


def _history(error: BaseException) -> Iterator[BaseException]:
    """Yield the error, its causes and contexts, and members of exception groups, each once."""
    seen: set[int] = set()
    pending: list[BaseException | None] = [error]
    while pending:
        each = pending.pop(0)
        if each is None or id(each) in seen:
            continue
        seen.add(id(each))
        yield each
        if isinstance(each, BaseExceptionGroup):
            pending += each.exceptions
        pending += [each.__cause__, None if each.__suppress_context__ else each.__context__]


def raised_in(error: BaseException) -> tuple[str, str]:
    """Return the module and function that raised the error; empty strings if not raised yet."""
    frames = error.__traceback__
    if frames is None:
        return "", ""
    while frames.tb_next is not None:
        frames = frames.tb_next
    return str(frames.tb_frame.f_globals.get("__name__")), frames.tb_frame.f_code.co_name

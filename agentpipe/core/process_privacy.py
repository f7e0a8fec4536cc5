"""What a process that holds credentials keeps from other processes of its user.

Any of them, such as an agent in a process of its own, could read ``/proc/PID/environ`` and the
memory, and a core file has both. ``root`` can do so in any case.
"""

from __future__ import annotations

import ctypes
import os
import re
import resource
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.core.credential_names import reads_like_secret
from agentpipe.core.processes import Stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PR_SET_DUMPABLE = 4
# Set to 1 it leaves processes open to debuggers and profilers of their user.
DUMPABLE = "AGENTPIPE_DUMPABLE"
# Variables that a program needs before its first line runs, and ours; operators look for these.
_OPEN = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TZ|TERM|TMPDIR|USER|LOGNAME|SHELL|PWD|VIRTUAL_ENV|"
    r"(PYTHON|LD_|MALLOC_|GLIBC_|AGENTPIPE_)\w*"
)
# Those that were taken out of ``os.environ``, for a config that passes them on by name.
_withdrawn: dict[str, str] = {}
_of_contexts: set[str] = set()


def is_open(name: str, value: str) -> bool:
    """Whether a variable may stand where other processes of the user see it."""
    return bool(_OPEN.fullmatch(name)) and not is_kept_back(name, value)


def is_kept_back(name: str, value: str) -> bool:
    """Whether a variable is one of a context's, or reads like a credential or a URL with one."""
    return name in _of_contexts or reads_like_secret(name) or "@" in value


def keep_to_contexts(names: Iterable[str]) -> None:
    """The variables that contexts refer to are credentials, whatever their names."""
    _of_contexts.update(names)


def harden() -> None:
    """Let no other process of this user read this one's memory or environment; no core files.

    Debuggers and profilers of the same user cannot attach either, unless the variable says so.
    """
    if sys.platform == "linux" and os.environ.get(DUMPABLE) != "1":
        ctypes.CDLL(None).prctl(PR_SET_DUMPABLE, 0, 0, 0, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def scrub() -> None:
    """Erase from ``/proc/PID/environ`` what this process was started with; ``os.environ`` stays.

    The C library gets copies of all variables first: others read them by ``getenv``.
    """
    if sys.platform != "linux":
        return
    for name, value in list(os.environ.items()):
        os.environ[name] = value
    with suppress(OSError, ValueError, IndexError):
        _erase(*_block())


def _block() -> tuple[int, int]:
    """The address and the size of the initial environment; see ``env_start`` in proc(5)."""
    fields = Stat.of(Path("/proc/self")).fields
    start, end = int(fields[47]), int(fields[48])
    return start, end - start


def _erase(start: int, size: int) -> None:
    at = start
    for entry in ctypes.string_at(start, size).split(b"\0") if start and size > 0 else ():
        name, _, value = entry.partition(b"=")
        if value and not is_open(os.fsdecode(name), os.fsdecode(value)):
            ctypes.memset(at + len(name) + 1, 0, len(value))
        at += len(entry) + 1


def withdraw(names: Iterable[str]) -> None:
    """Take variables out of ``os.environ``: programs that agents start would inherit them."""
    for name in names:
        if name in os.environ and not is_open(name, os.environ[name]):
            _withdrawn[name] = os.environ.pop(name)


def variables() -> Mapping[str, str]:
    """This process's environment, with what was withdrawn from it."""
    return {**_withdrawn, **os.environ}

"""Hide a process's credentials from other processes of the same user.

Without this, any such process, for example an agent in its own process, could read the memory and
``/proc/PID/environ``. A core file contains both. ``root`` can always read them.
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
from agentpipe.core.prctl import prctl
from agentpipe.core.processes import Stat

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

PR_SET_DUMPABLE = 4
# If set to 1, debuggers and profilers of the same user can attach.
DUMPABLE = "AGENTPIPE_DUMPABLE"
# Variables that programs need before their first line runs, and ours, which operators look up.
_OPEN = re.compile(
    r"PATH|HOME|LANG|LC_\w+|TZ|TERM|TMPDIR|USER|LOGNAME|SHELL|PWD|VIRTUAL_ENV|"
    r"(PYTHON|LD_|MALLOC_|GLIBC_|AGENTPIPE_)\w*"
)
# Variables removed from ``os.environ``, kept for configs that pass them on by name.
_withdrawn: dict[str, str] = {}
_of_contexts: set[str] = set()


def is_open(name: str, value: str) -> bool:
    """Whether a variable can stay visible to other processes of the user."""
    return bool(_OPEN.fullmatch(name)) and not is_kept_back(name, value)


def is_kept_back(name: str, value: str) -> bool:
    """Whether a variable is in a context, or looks like a credential or a URL with one."""
    return name in _of_contexts or reads_like_secret(name) or "@" in value


def keep_to_contexts(names: Iterable[str]) -> None:
    """Treat variables that contexts refer to as credentials, whatever their names."""
    _of_contexts.update(names)


def harden() -> None:
    """Stop other processes of this user from reading memory and environment; disable core files.

    Debuggers and profilers of the same user cannot attach either, unless ``DUMPABLE`` is set to 1.
    """
    if os.environ.get(DUMPABLE) != "1":
        prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def scrub() -> None:
    """Erase this process's initial variables from ``/proc/PID/environ``; ``os.environ`` stays.

    All variables are copied into the C library first, for code that calls ``getenv``.
    """
    if sys.platform != "linux":
        return
    for name, value in list(os.environ.items()):
        os.environ[name] = value
    with suppress(OSError, ValueError, IndexError):
        _erase(*_block())


def _block() -> tuple[int, int]:
    """Return address and size of the initial environment; see ``env_start`` in proc(5)."""
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
    """Remove variables from ``os.environ``, or programs started by agents would inherit them."""
    for name in names:
        if name in os.environ and not is_open(name, os.environ[name]):
            _withdrawn[name] = os.environ.pop(name)


def variables() -> Mapping[str, str]:
    """Return this process's environment, including the withdrawn variables."""
    return {**_withdrawn, **os.environ}

"""Which processes hold a lock on a file, as far as the kernel shows it."""

from __future__ import annotations

import os
import re
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.core.processes import Stat
from agentpipe.core.text import one_line, printable

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

PROC = Path("/proc")
MAX_COMMAND_CHARS = 80
# Stopped by a signal or by a debugger.
STOPPED = ("T", "t")
_PASSWORD = re.compile(r"(://[^/\s:@]*):[^/\s@]*@")


@dataclass(frozen=True, slots=True)
class Holder:
    """A process that holds a lock.

    Attributes:
        command: Its command line, shortened, without passwords in URLs.
        state: As in ``/proc/PID/stat``: ``T`` is a stopped process.
    """

    pid: int
    command: str
    state: str

    @property
    def is_stopped(self) -> bool:
        """Whether it was stopped by a signal (``kill -STOP``, Ctrl-Z) or by a debugger."""
        return self.state in STOPPED

    def __str__(self) -> str:
        stopped = ", which is stopped" if self.is_stopped else ""
        return f"process {self.pid} ({self.command}){stopped}"


@dataclass(frozen=True, slots=True)
class Lock:
    """A line of ``/proc/locks``.

    Attributes:
        first: The first locked byte.
        last: The last locked byte; infinity for the end of the file.
    """

    kind: str
    access: str
    pid: int
    first: int
    last: float


def holders_of_file(path: Path) -> list[Holder]:
    """Processes with an advisory lock (``flock``) on the file; empty if they cannot be seen."""
    pids = {lock.pid for lock in _locks_of(path) if lock.kind == "FLOCK"}
    if any(not (PROC / str(pid)).exists() for pid in pids):  # Inherited: its taker has ended.
        pids = set(_inheritors(path))
    return _holders(pids)


def holders_of_bytes(path: Path, first: int, last: int, access: str) -> list[Holder]:
    """Processes with a record lock (``fcntl``) on any of these bytes; ``READ`` or ``WRITE``."""
    pids = {
        lock.pid
        for lock in _locks_of(path)
        if lock.kind != "FLOCK"
        and lock.access == access
        and lock.first <= last
        and first <= lock.last
    }
    return _holders(pids)


def what_to_do(holders: Sequence[Holder]) -> str:
    """Describe who holds a lock and what to do about it."""
    if not holders:
        return "another process writes to it and does not end"
    who = " and ".join(map(str, holders))
    pids = " ".join(str(each.pid) for each in holders if each.is_stopped)
    if not pids:
        return f"{who} writes to it and does not end; nothing is lost if you end it"
    return (
        f"{who}, writes to it; let it go on (`kill -CONT {pids}`, or `fg` in its shell) or end it "
        f"(`kill -KILL {pids}`): nothing is lost"
    )


def _locks_of(path: Path) -> Iterator[Lock]:
    """The granted locks on a file."""
    with suppress(OSError):
        found = path.stat()
        inode = str(found.st_ino)
        device = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}"
        lines = [line.split() for line in (PROC / "locks").read_text().splitlines()]
        granted = [words for words in lines if "->" not in words and len(words) > 7]  # noqa: PLR2004 - columns
        same = [words for words in granted if words[5].rpartition(":")[2] == inode]
        # Some file systems report one device number to the kernel and another to the user.
        exact = [words for words in same if words[5].rpartition(":")[0] == device]
        for words in exact or same:
            last = float("inf") if words[7] == "EOF" else int(words[7])
            yield Lock(words[1], words[3], int(words[4]), int(words[6]), last)


def _inheritors(path: Path) -> Iterator[int]:
    """Processes that have the file open with a lock taken by another process."""
    target = str(path.resolve())
    for file in PROC.glob("[0-9]*/fd/*"):
        with suppress(OSError):
            if str(file.readlink()) == target and "lock:" in _fdinfo(file):
                yield int(file.parts[-3])


def _fdinfo(file: Path) -> str:
    return (file.parent.parent / "fdinfo" / file.name).read_text()


def _holders(pids: set[int]) -> list[Holder]:
    others = sorted(pid for pid in pids if pid > 0 and pid != os.getpid())
    return [holder for pid in others if (holder := _holder(pid)) is not None]


def _holder(pid: int) -> Holder | None:
    """Describe a process; None if it has ended."""
    with suppress(OSError):
        stat = Stat.of(PROC / str(pid))
        words = (PROC / str(pid) / "cmdline").read_bytes().decode(errors="replace")
        command = words.replace("\0", " ").strip() or stat.command
        command = printable(_PASSWORD.sub(r"\1:***@", command))
        return Holder(pid, one_line(command, MAX_COMMAND_CHARS), stat.state)
    return None

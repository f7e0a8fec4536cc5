"""Processes of this machine by pid, with details from ``/proc`` if the system has it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_STATE, _USER_TICKS, _SYSTEM_TICKS, _STARTED = 0, 11, 12, 19


@dataclass(frozen=True, slots=True)
class Stat:
    """A ``stat`` file of ``/proc``, for a process or one of its threads; see proc(5).

    Attributes:
        command: Start of the program's name.
        fields: The fields after the name, starting with the state.
    """

    command: str
    fields: list[str]

    @classmethod
    def of(cls, folder: Path) -> Stat:
        """Read the file in ``folder``, such as ``/proc/1``.

        Raises:
            OSError: The process is gone, or there is no ``/proc``.
        """
        text = (folder / "stat").read_text(encoding="utf-8", errors="replace")
        before, _, after = text.rpartition(")")
        return cls(before.partition("(")[2], after.split())

    @property
    def state(self) -> str:
        """One letter; ``Z`` is a zombie: ended but not yet reaped by its parent."""
        return self.fields[_STATE]

    @property
    def started(self) -> str:
        """Start time; together with the pid it identifies a process."""
        return self.fields[_STARTED]

    @property
    def ticks(self) -> int:
        """CPU time in clock ticks."""
        return int(self.fields[_USER_TICKS]) + int(self.fields[_SYSTEM_TICKS])

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.state in "Tt"

    @property
    def has_ended(self) -> bool:
        """Whether it has ended, including zombies."""
        return self.state in "ZX"


def stat_of(pid: int) -> Stat | None:
    """Return a process's stat; None if it is gone, or the system has no ``/proc``."""
    try:
        return Stat.of(Path(f"/proc/{pid}"))
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether a process is running, including those of other users."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = stat_of(pid)
    return stat is None or not stat.has_ended

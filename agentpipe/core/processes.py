"""Processes of this machine, by their pids; ``/proc`` tells more, where the system has it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

_STATE, _USER_TICKS, _SYSTEM_TICKS, _STARTED = 0, 11, 12, 19


@dataclass(frozen=True, slots=True)
class Stat:
    """A ``stat`` file of ``/proc``, of a process or of one of its threads; see proc(5).

    Attributes:
        command: The beginning of the program's name.
        fields: What follows it, from the state on.
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
        """A letter: ``Z`` has ended and its parent has not noticed."""
        return self.fields[_STATE]

    @property
    def started(self) -> str:
        """When it started; with the pid it identifies a process."""
        return self.fields[_STARTED]

    @property
    def ticks(self) -> int:
        """Its processor time, in the system's clock ticks."""
        return int(self.fields[_USER_TICKS]) + int(self.fields[_SYSTEM_TICKS])

    @property
    def is_stopped(self) -> bool:
        """Whether a signal or a debugger has stopped it."""
        return self.state in "Tt"

    @property
    def has_ended(self) -> bool:
        """Whether it no longer runs."""
        return self.state in "ZX"


def stat_of(pid: int) -> Stat | None:
    """The process's; None where it is gone, or the system has no ``/proc``."""
    try:
        return Stat.of(Path(f"/proc/{pid}"))
    except OSError:
        return None


def is_alive(pid: int) -> bool:
    """Whether a process runs, one of another user included."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    stat = stat_of(pid)
    return stat is None or not stat.has_ended

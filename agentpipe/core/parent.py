"""Parent: the process that started this one, and whether it has ended."""

from __future__ import annotations

import multiprocessing
import os
import signal
from dataclasses import dataclass

from agentpipe.core.prctl import prctl
from agentpipe.core.processes import is_alive

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True, slots=True)
class Parent:
    """The parent process; look it up once, early in the process's life.

    Attributes:
        is_python: Whether the parent used ``multiprocessing``, rather than a shell or other
            program.
    """

    pid: int
    is_python: bool
    # For children of a fork server, ``os.getppid`` is the fork server instead.
    _is_systems: bool

    @classmethod
    def of_this_process(cls) -> Parent:
        """Return the process that requested this one, even if a fork server created it."""
        master = multiprocessing.parent_process()
        pid = os.getppid() if master is None else master.pid or 0
        return cls(pid, master is not None, pid == os.getppid())

    def is_gone(self) -> bool:
        """Whether the parent has ended; its pid can belong to another process by now."""
        return os.getppid() != self.pid if self._is_systems else not is_alive(self.pid)


def continue_when_orphaned() -> None:
    """Have the kernel continue this process, if it is stopped, when the one that started it ends.

    A stopped process could not notice it, and would stay for ever. It also continues when only the
    thread that started it ends.
    """
    prctl(PR_SET_PDEATHSIG, signal.SIGCONT)

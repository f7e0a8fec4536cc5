"""Parent: the process that started this one, and whether it is gone."""

from __future__ import annotations

import multiprocessing
import os
from dataclasses import dataclass

from agentpipe.core.processes import is_alive


@dataclass(frozen=True, slots=True)
class Parent:
    """Look it up once, while the process is young.

    Attributes:
        is_python: Whether it is of ``multiprocessing``, and no shell or other program.
    """

    pid: int
    is_python: bool
    # Of a fork server's children the system's parent is another process.
    _is_systems: bool

    @classmethod
    def of_this_process(cls) -> Parent:
        """The one that asked for this process, also where a fork server made it."""
        master = multiprocessing.parent_process()
        pid = os.getppid() if master is None else master.pid or 0
        return cls(pid, master is not None, pid == os.getppid())

    def is_gone(self) -> bool:
        """Whether it has ended; its number may be another process's since."""
        return os.getppid() != self.pid if self._is_systems else not is_alive(self.pid)

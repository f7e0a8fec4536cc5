"""ChildMemory: the memory of all descendant processes, measured at intervals."""

from __future__ import annotations

import os
import time
from pathlib import Path

from agentpipe.engines.process.process_tree import children_of

# Measuring reads one file per process.
EVERY_S = 5.0


class ChildMemory:
    """Proportional set sizes of MCP servers, agent processes and their descendants."""

    def __init__(self) -> None:
        self._at, self._bytes = float("-inf"), 0

    def bytes(self) -> int:
        """The sum, measured at intervals; 0 if the system does not report it."""
        if time.monotonic() - self._at >= EVERY_S:
            self._bytes, self._at = _bytes_below(os.getpid()), time.monotonic()
        return self._bytes


def _bytes_below(pid: int) -> int:
    return sum(_bytes_of(child, pid) + _bytes_below(child) for child in children_of(pid))


def _bytes_of(pid: int, parent: int) -> int:
    """Proportional size: pages that forks share are divided among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # It has ended, or its memory is private.
        return _own_bytes(pid) - min(_own_bytes(pid), _inherited_bytes(parent))
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _inherited_bytes(parent: int) -> int:
    """Rough size that a fork shares with its parent; 0 if the worker started it: no fork."""
    return 0 if parent == os.getpid() else _own_bytes(parent)


def _own_bytes(pid: int) -> int:
    """Resident pages that belong to no file, in bytes."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

"""ChildMemory: the memory of all processes below this one, measured now and then."""

from __future__ import annotations

import os
import time
from pathlib import Path

from agentpipe.engines.process.process_tree import children_of

# Measuring reads a file for each process.
EVERY_S = 5.0


class ChildMemory:
    """The proportional sizes of MCP servers, agents' processes and what they have started."""

    def __init__(self) -> None:
        self._at, self._bytes = float("-inf"), 0

    def bytes(self) -> int:
        """The sum, measured again after a while; 0 where the system does not tell."""
        if time.monotonic() - self._at >= EVERY_S:
            self._bytes, self._at = _bytes_below(os.getpid()), time.monotonic()
        return self._bytes


def _bytes_below(pid: int) -> int:
    return sum(_bytes_of(child, pid) + _bytes_below(child) for child in children_of(pid))


def _bytes_of(pid: int, parent: int) -> int:
    """Pages that forks share are divided among them."""
    try:
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii").splitlines()
    except OSError:  # It has ended, or keeps its memory to itself.
        return _own_bytes(pid) - min(_own_bytes(pid), _inherited_bytes(parent))
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


def _inherited_bytes(parent: int) -> int:
    """What a fork has of its parent, roughly; nothing of the worker, which only starts programs."""
    return 0 if parent == os.getpid() else _own_bytes(parent)


def _own_bytes(pid: int) -> int:
    """Resident pages that belong to no file."""
    try:
        resident, shared = Path(f"/proc/{pid}/statm").read_text(encoding="ascii").split()[1:3]
    except OSError:
        return 0
    return (int(resident) - int(shared)) * os.sysconf("SC_PAGE_SIZE")

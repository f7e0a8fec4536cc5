"""Processes and their descendants, from ``/proc`` where the system has it.

The reaper runs with any Python, so this module only imports the standard library.
"""

from __future__ import annotations

import os
import signal
from contextlib import suppress
from pathlib import Path


def children_of(pid: int) -> list[int]:
    """The pids of the children of all the process's threads."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def environment_of(pid: int) -> set[bytes]:
    """A process's initial variables as ``NAME=value``; empty if it is gone."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def kill_tree(pid: int) -> None:
    """Kill a process, its group and its descendants; it is stopped first, so none escapes."""
    with suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
    for child in children_of(pid):
        kill_tree(child)
    kill_group(pid)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Kill the process group that a process leads, if any."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)

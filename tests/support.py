"""Helpers for several test suites."""

from __future__ import annotations

import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def slowness() -> float:
    """The factor by which to extend timeouts: 1 when a core is free, up to 4 on a busy machine."""
    return min(4.0, max(1.0, os.getloadavg()[0] / (2 * (os.cpu_count() or 1))))


def wait_until(predicate: Callable[[], T], timeout_s: float, description: str) -> T:
    """Wait until ``predicate`` returns a true value; return it, or fail the test at the timeout."""
    deadline = time.monotonic() + timeout_s * slowness()
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {description}")
        time.sleep(0.005)
    return value


def processes_with(mark: str, file: str = "cmdline") -> set[int]:
    """Running processes with ``mark`` in their command line, or in another ``/proc`` file."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (entry / file).read_bytes():
                found.add(int(entry.name))
    return found


def refuse_in_sqlite(path: Path, table: str, condition: str) -> None:
    """Make SQLite refuse new rows that match the condition, with an integrity error."""
    with closing(sqlite3.connect(path, timeout=30)) as db:
        db.execute(
            f"CREATE TRIGGER picky_{table} BEFORE INSERT ON {table} WHEN {condition}"
            " BEGIN SELECT RAISE(ABORT, 'refused by a trigger'); END"
        )
        db.commit()

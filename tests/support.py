"""What several test suites share."""

from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")


def wait_until(predicate: Callable[[], T], timeout_s: float, description: str) -> T:
    """What ``predicate`` gives, once that is true; fails the test when it takes too long."""
    deadline = time.monotonic() + timeout_s
    while not (value := predicate()):
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {description}")
        time.sleep(0.005)
    return value


def processes_with(mark: str, file: str = "cmdline") -> set[int]:
    """Those that live and have ``mark`` in their command line, or in their ``environ``."""
    found = set()
    for entry in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if mark.encode() in (entry / file).read_bytes():
                found.add(int(entry.name))
    return found

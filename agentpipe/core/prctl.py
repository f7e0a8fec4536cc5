"""prctl: what Linux lets a process set for itself."""

from __future__ import annotations

import ctypes
import sys


def prctl(option: int, value: int) -> None:
    """Call Linux's ``prctl``; do nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)

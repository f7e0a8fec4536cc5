"""Sending a peer's tasks one by one, as its users do."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Callable

QUESTION = "x" * 1_400


def send_by_arguments(send: Callable[[float, str], Any]) -> None:
    """Send tasks by the command line's number and pause; print tasks per second."""
    number, pause_s = int(sys.argv[1]), float(sys.argv[2])
    started = time.perf_counter()
    for _ in range(number):
        send(time.time(), QUESTION)
        if pause_s:
            time.sleep(pause_s)
    sys.stdout.write(str(number / (time.perf_counter() - started)))

"""Drain times: how long stores remember drains that they date by the machine's clock."""

from __future__ import annotations

import time

from agentpipe.brokers.capabilities import DRAIN_NOTED_S


def drain_times_us() -> tuple[int, int]:
    """Return the current time, and that of the earliest drain that is remembered.

    Both are in Unix microseconds.
    """
    now_us = time.time_ns() // 1_000
    return now_us, now_us - int(DRAIN_NOTED_S * 1e6)

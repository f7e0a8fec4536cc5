"""Finding: what `agentpipe doctor` was told of one thing, and what to do about it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

Status = Literal["ok", "warn", "fail"]
# Clocks of machines that keep them are within some milliseconds.
MAX_SKEW_S = 1.0
SLOW_S = 0.1


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    Attributes:
        advice: What to do; empty where nothing need be done.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


@runtime_checkable
class Examined(Protocol):
    """A store or a sink that can tell how its server is; ours can."""

    def examine(self) -> list[Finding]:
        """What is to be known of it; everything may raise ``Unreachable``."""


def ok(name: str, found: str) -> Finding:
    """Nothing need be done."""
    return Finding(name, "ok", found)


def warn(name: str, found: str, advice: str) -> Finding:
    """It works, and something is to be known."""
    return Finding(name, "warn", found, advice)


def fail(name: str, found: str, advice: str) -> Finding:
    """Something will not work, or not be safe."""
    return Finding(name, "fail", found, advice)


def round_trip(took_s: float) -> Finding:
    """How long a server takes to answer."""
    found = f"{took_s * 1000:.2f} ms"
    if took_s < SLOW_S:
        return ok("round trip", found)
    return warn("round trip", found, "each claim waits for it: move workers and server together")


def clock_skew(ahead_s: float, precision_s: float = 0.0) -> Finding:
    """By how much a server's clock is ahead of this machine's, as far as that can be told."""
    found = f"{skew(ahead_s)} against this machine, to within {precision_s:.3f} s"
    if is_close(ahead_s, precision_s):
        return ok("clock", found)
    advice = "deadlines and times of results are off: run an NTP client on both machines"
    return warn("clock", found, advice)


def is_close(ahead_s: float, precision_s: float = 0.0) -> bool:
    """Whether two clocks may be called the same."""
    return abs(ahead_s) <= MAX_SKEW_S + precision_s


def skew(ahead_s: float) -> str:
    """How far a clock is ahead of another one."""
    return f"{ahead_s:+.3f} s".replace("-0.000", "+0.000")

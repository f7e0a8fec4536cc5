"""Probes: whether a fleet's supervisor is alive, and whether its workers can take tasks."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.text import duration

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe.brokers.statistics import Stats
    from agentpipe.settings import OutboxLimits


@dataclass(frozen=True, slots=True)
class Probed:
    """The result of a probe.

    Attributes:
        good: Whether the check passed.
        found: One sentence.
    """

    good: bool
    found: str


def is_live(file: Path, max_age_s: float) -> Probed:
    """Whether the supervisor touched its heartbeat file recently."""
    try:
        age_s = max(0.0, time.time() - file.stat().st_mtime)
    except OSError as error:
        return Probed(good=False, found=f"no heartbeat in {file}: {error.strerror}")
    found = f"the supervisor was heard {duration(age_s)} ago"
    return Probed(good=age_s <= max_age_s, found=found)


def is_ready(stats: Stats, limits: OutboxLimits) -> Probed:
    """Whether workers claim tasks, as far as the outbox decides it."""
    records, size = stats.outbox or 0, stats.outbox_bytes or 0
    if limits.reached_by(records, size):
        found = f"the outbox is full ({records:,} records, {size:,} bytes): workers claim nothing"
        return Probed(good=False, found=found)
    return Probed(good=True, found=f"the broker answers, {records:,} results in the outbox")

"""Probes: whether a fleet's supervisor works, and whether its workers could take tasks."""

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
    """What a probe has found.

    Attributes:
        good: Whether all is as it should be.
        found: One sentence.
    """

    good: bool
    found: str


def is_live(file: Path, max_age_s: float) -> Probed:
    """Whether the supervisor has touched its heartbeat file lately."""
    try:
        age_s = max(0.0, time.time() - file.stat().st_mtime)
    except OSError as error:
        return Probed(good=False, found=f"no heartbeat in {file}: {error.strerror}")
    found = f"the supervisor was heard {duration(age_s)} ago"
    return Probed(good=age_s <= max_age_s, found=found)


def is_ready(stats: Stats, limits: OutboxLimits) -> Probed:
    """Whether workers claim, as far as the outbox is concerned."""
    records, size = stats.outbox or 0, stats.outbox_bytes or 0
    if limits.reached_by(records, size):
        found = f"the outbox is full ({records:,} records, {size:,} bytes): workers claim nothing"
        return Probed(good=False, found=found)
    return Probed(good=True, found=f"the broker answers, {records:,} results in the outbox")

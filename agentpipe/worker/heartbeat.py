"""Vitals: what a worker tells of itself with each renewal of its lease."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Self

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping


@dataclass(frozen=True, slots=True)
class Vitals:
    """All of it as ages and sizes, so that no two clocks are compared; None where unknown.

    Attributes:
        lag_s: How late the event loop was at most, since the last report.
        rss_bytes: The memory of the process, without that of its children.
        sink_error: Why the sink took no results when they were last published, masked.
        sink_down_s: For how long it has taken none; None while it does.
        carrying_s: For how long the process has had results that the sink has not confirmed.
        oldest_s: For how long the oldest run of each queue has been running.
        clock: The one time of day: when this was told, by the worker's own clock, since 1970.
            For ``doctor``, whose business is to compare clocks.
        up_s: For how long the process has served.
    """

    lag_s: float | None = None
    rss_bytes: int | None = None
    sink_error: str = ""
    sink_down_s: float | None = None
    carrying_s: float = 0.0
    oldest_s: Mapping[str, float] = field(default_factory=dict)
    clock: float | None = None
    up_s: float | None = None

    def encode(self) -> bytes:
        """As the store keeps it."""
        return orjson.dumps(asdict(self))

    @classmethod
    def decode(cls, report: bytes) -> Self:
        """What ``encode`` wrote, by this or another version; nothing where it cannot be read."""
        try:
            told = orjson.loads(report)
            return cls(**{name: told[name] for name in cls.__slots__ if name in told})
        except (orjson.JSONDecodeError, TypeError):
            return cls()

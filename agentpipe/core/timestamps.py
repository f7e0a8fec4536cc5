"""Convert times to strings and back."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from functools import lru_cache
from typing import Any


def utc(timestamp: float) -> str:
    """Format Unix seconds as ISO 8601 in UTC with microseconds; such strings sort by time."""
    fraction, whole = math.modf(timestamp)
    seconds, micros = divmod(int(whole) * 1_000_000 + round(fraction * 1e6), 1_000_000)
    return f"{_utc_second(seconds)}.{micros:06}Z"


@lru_cache(maxsize=64)
def _utc_second(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat().removesuffix("+00:00")


def moment_of(value: Any) -> datetime | None:
    """Parse an ISO 8601 time with a zone; None for anything else."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment if moment.tzinfo else None


def seconds_of(value: Any) -> float | None:
    """Parse like ``moment_of``, but return Unix seconds."""
    try:
        moment = datetime.fromisoformat(value)
    except (TypeError, ValueError):
        return None
    return moment.timestamp() if moment.tzinfo else None

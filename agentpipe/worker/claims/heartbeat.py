"""Heartbeat: what a worker reports of itself each time it renews its lease."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


@dataclass(frozen=True, slots=True)
class RunSeen:
    """A run in progress.

    Attributes:
        activity: What it does, in a few words, masked; empty where it is unknown.
    """

    queue: str
    task_id: str
    age_s: float
    activity: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """Ages and sizes, so that clocks of two machines are never compared; None where unknown.

    Attributes:
        lag_s: The longest delay of the event loop since the last report.
        rss_bytes: The memory of the process without its children.
        sink_error: Why the sink refused the last results, masked.
        sink_down_s: For how long the sink has refused them; None while it takes them.
        carrying_s: The age of the oldest results taken from the outbox and not confirmed.
        oldest_s: The age of the oldest run of each queue.
        clock: The worker's own clock in Unix seconds: for ``doctor``, which compares clocks.
        up_s: The age of the process.
        servers: How many MCP servers it runs.
        children_bytes: The memory of all processes below it.
        configs: Of each of its collections, fingerprint, place and Unix microseconds of its change.
        policies: Of each policy that it follows, which pause it has heard of, and how many requests
            are under way.
        left_alone: Ids of tasks that it does not run, sent with another config.
        runs: Its oldest runs, the oldest first; not all of them.
    """

    lag_s: float | None = None
    rss_bytes: int | None = None
    sink_error: str = ""
    sink_down_s: float | None = None
    carrying_s: float = 0.0
    oldest_s: Mapping[str, float] = field(default_factory=dict)
    clock: float | None = None
    up_s: float | None = None
    servers: int = 0
    children_bytes: int = 0
    configs: Mapping[str, tuple[str, str, int]] = field(default_factory=dict)
    left_alone: Sequence[str] = ()
    policies: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    runs: Sequence[RunSeen] = ()

    def encode(self) -> bytes:
        """The report that the store keeps."""
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, report: bytes) -> Self:
        """Read what ``encode`` of any version wrote; empty if it cannot be read."""
        try:
            fields = orjson.loads(report)
            known = {name: fields[name] for name in cls.__slots__ if name in fields}
            known["runs"] = tuple(RunSeen(**each) for each in known.get("runs", ()))
            return cls(**known)
        except (orjson.JSONDecodeError, TypeError):
            return cls()

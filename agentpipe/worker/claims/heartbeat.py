"""Heartbeat: what a worker reports about itself each time it renews its lease."""

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
        activity: What it is doing, in a few words, masked; empty if unknown.
    """

    queue: str
    task_id: str
    age_s: float
    activity: str = ""


@dataclass(frozen=True, slots=True)
class Heartbeat:
    """A report in ages and sizes: clocks of two machines are never compared. None if unknown.

    Attributes:
        lag_s: The longest delay of the event loop since the last report.
        rss_bytes: Memory of the process without its children.
        sink_error: Why the sink refused the last results, masked.
        sink_down_s: How long the sink has refused results; None while it takes them, or answers
            and none wait here.
        carrying_s: Age of the oldest results taken from the outbox and not confirmed.
        oldest_s: Age of the oldest run of each queue.
        clock: The worker's own clock in Unix seconds: for ``doctor``, which compares clocks.
        up_s: Age of the process.
        servers: Number of MCP servers it runs.
        children_bytes: Memory of all descendant processes.
        configs: Per collection: fingerprint, place, and time of change in Unix microseconds.
        left_alone: Ids of tasks that it does not run because they were sent with another config.
        policies: Per policy that it follows: the number of the last pause that it received, and the
            number of requests in flight.
        runs: Its oldest runs, oldest first; not all of them.
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
        """Encode the report as the store keeps it."""
        return orjson.dumps({name: getattr(self, name) for name in self.__slots__})

    @classmethod
    def decode(cls, report: bytes) -> Self:
        """Decode the output of ``encode`` of any version; empty if it is unreadable."""
        try:
            fields = orjson.loads(report)
            known = {name: fields[name] for name in cls.__slots__ if name in fields}
            known["runs"] = tuple(RunSeen(**each) for each in known.get("runs", ()))
            return cls(**known)
        except (orjson.JSONDecodeError, TypeError):
            return cls()

"""The schedules of collections and their next times, as plain data."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from agentpipe.config.cron import Cron

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.config.collection import Collection, ScheduleSpec


def list_schedules(collections: Iterable[Collection], count: int) -> list[dict[str, Any]]:
    """The JSON of ``agentpipe schedule list``, with ``count`` times of each schedule."""
    return [_as_dict(each, spec, count) for each in collections for spec in each.schedule]


def _as_dict(collection: Collection, spec: ScheduleSpec, count: int) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "name": spec.name,
        "cron": spec.cron,
        "timezone": spec.timezone,
        "missed": spec.missed,
        "tasks": str(spec.tasks_file),
        "next": list(_next(spec, count)),
    }


def _next(spec: ScheduleSpec, count: int) -> Iterator[dict[str, str]]:
    cron = Cron(spec.cron, spec.timezone)
    moment: datetime | None = datetime.now(UTC)
    for _ in range(count):
        moment = cron.following(moment) if moment else None
        if moment is not None:
            yield {"utc": moment.isoformat(), "local": cron.shown(moment)}

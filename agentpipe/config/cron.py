"""Cron lines: when they fire, in a time zone with its daylight saving.

APScheduler reads the fields and walks the wall clock. What a wall clock's time means in the zone
is decided here: its own arithmetic does not get past an hour that comes twice.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from agentpipe.core.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = ("minute", "hour", "day", "month", "weekday")

# No clock is set by more at once.
_SHIFT = timedelta(hours=3)
_STEP = timedelta(microseconds=1)
# A line is sought in longer and longer times: one of each minute shall not walk through ten years.
_SPANS = (timedelta(hours=2), timedelta(days=2), timedelta(days=62), timedelta(days=3_660))


@dataclass(frozen=True)
class Cron:
    """A line of five fields in a zone.

    Raises:
        ValueError: Saying what is wrong, when it is made.
    """

    line: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Refuse what cannot be read, and what never comes."""
        _ = self._zone
        if next(self._walls(datetime.now(UTC).replace(tzinfo=None)), None) is None:
            raise ValueError(f"{self.line!r} never fires: there is no such day")

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """When it fires later than ``after`` and no later than ``until``, in UTC and in order."""
        last = self._wall(until) + _SHIFT
        found: set[datetime] = set()
        for wall in self._walls(self._wall(after) - _SHIFT):
            if wall > last:
                break
            found.update(each for each in self._moments(wall) if after < each <= until)
        return sorted(found)

    def following(self, after: datetime) -> datetime | None:
        """When it fires next, in UTC; None if not within ten years."""
        spans = (self.between(after, after + span) for span in _SPANS)
        return next((found[0] for found in spans if found), None)

    def shown(self, moment: datetime) -> str:
        """A moment as the zone's clocks show it."""
        return moment.astimezone(self._zone).isoformat()

    @cached_property
    def _zone(self) -> ZoneInfo:
        return zone_of(self.zone)

    @cached_property
    def _trigger(self) -> Any:
        return _trigger_of(self.line)

    @property
    def _is_of_each_hour(self) -> bool:
        return self.line.split()[1].startswith("*")

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None)

    def _walls(self, start: datetime) -> Iterator[datetime]:
        """Each time of the wall clock that the fields name, from ``start`` on."""
        wall = start.replace(tzinfo=UTC)
        while (wall := self._trigger.get_next_fire_time(None, wall)) is not None:
            yield wall.replace(tzinfo=None)
            wall += _STEP

    def _moments(self, wall: datetime) -> list[datetime]:
        """What a time of the wall clock means: of a skipped hour, that much after its beginning.

        An hour that comes twice counts once, but for a line that is for each hour.
        """
        first, second = (wall.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        early, late = first.astimezone(UTC), second.astimezone(UTC)
        return [early, late] if early < late and self._is_of_each_hour else [early]


def zone_of(name: str) -> ZoneInfo:
    """A time zone.

    Raises:
        ValueError: Naming the nearest that is known.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = did_you_mean(name, available_timezones(), "write one such as 'Europe/Berlin'")
        raise ValueError(f"unknown time zone {name[:60]!r}: {hint}") from None


def _trigger_of(line: str) -> Any:
    from apscheduler.triggers.cron import CronTrigger

    found = len(line.split())
    if found != len(FIELDS):
        raise ValueError(f"{line[:60]!r} has {found} fields: write {' '.join(FIELDS)}")
    try:
        return CronTrigger.from_crontab(line, timezone=UTC)
    except ValueError as error:
        raise ValueError(f"{line[:60]!r} is no cron line: {error}") from error

"""Cron lines: when they fire, in a time zone with daylight saving time.

APScheduler parses the fields and finds matching local times. This module decides two things.
Weekdays: APScheduler counts from Monday, crontab from Sunday. And the moment that a local time
means in the zone, since APScheduler's arithmetic fails in an hour that occurs twice.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from agentpipe.core.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterator

FIELDS = ("minute", "hour", "day", "month", "weekday")
WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")

_PART = re.compile(r"(?:\*|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[1-7]))?", re.ASCII)
_FORMS = "a range such as 1-5, a step such as */2, or a list such as 1,5"
_VALUES = {
    "minute": "0 to 59",
    "hour": "0 to 23",
    "day": "1 to 31 or last",
    "month": "1 to 12 or jan to dec",
}
_HOW = "write 0 to 7 or sun to sat, a range such as 1-5 or mon-fri, a step such as */2"

# No clock change is larger.
_SHIFT = timedelta(hours=3)
_STEP = timedelta(microseconds=1)
# Searched in order, so that a line that fires every minute does not scan ten years.
_SPANS = (timedelta(hours=2), timedelta(days=2), timedelta(days=62), timedelta(days=3_660))


@dataclass(frozen=True)
class Cron:
    """A cron line of five fields in a time zone.

    Raises:
        ValueError: The line or the zone is invalid; raised by the constructor.
    """

    line: str
    zone: str = "UTC"

    def __post_init__(self) -> None:
        """Reject an invalid line, or one that never fires."""
        _ = self._zone
        if next(self._walls(datetime.now(UTC).replace(tzinfo=None)), None) is None:
            raise ValueError(f"{self.line!r} never fires: there is no such day")

    def between(self, after: datetime, until: datetime) -> list[datetime]:
        """Return the firings after ``after`` up to ``until`` (inclusive), in UTC and in order."""
        last = self._wall(until) + _SHIFT
        found: set[datetime] = set()
        for wall in self._walls(self._wall(after) - _SHIFT):
            if wall > last:
                break
            found.update(each for each in self._moments(wall) if after < each <= until)
        return sorted(found)

    def following(self, after: datetime) -> datetime | None:
        """Return the next firing, in UTC; None if there is none within ten years."""
        spans = (self.between(after, after + span) for span in _SPANS)
        return next((found[0] for found in spans if found), None)

    def shown(self, moment: datetime) -> str:
        """Return ``moment`` in the zone's local time, in ISO 8601."""
        return moment.astimezone(self._zone).isoformat()

    @cached_property
    def _zone(self) -> ZoneInfo:
        return zone_of(self.zone)

    @cached_property
    def _trigger(self) -> Any:
        return _trigger_of(self.line)

    @property
    def _is_hourly(self) -> bool:
        return self.line.split()[1].startswith("*")

    def _wall(self, moment: datetime) -> datetime:
        return moment.astimezone(self._zone).replace(tzinfo=None)

    def _walls(self, start: datetime) -> Iterator[datetime]:
        """Yield the local times that match the fields, from ``start`` on."""
        wall = start.replace(tzinfo=UTC)
        while (wall := self._trigger.get_next_fire_time(None, wall)) is not None:
            yield wall.replace(tzinfo=None)
            wall += _STEP

    def _moments(self, wall: datetime) -> list[datetime]:
        """Return the moments at which a local time occurs.

        A time in a skipped hour fires later by the skipped time (02:30 fires at 03:30). A time in a
        repeated hour fires once, or twice if the line is hourly.
        """
        first, second = (wall.replace(tzinfo=self._zone, fold=fold) for fold in (0, 1))
        early, late = first.astimezone(UTC), second.astimezone(UTC)
        return [early, late] if early < late and self._is_hourly else [early]


def zone_of(name: str) -> ZoneInfo:
    """Return the time zone of this name.

    Raises:
        ValueError: It is unknown; the message suggests a similar one.
    """
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        hint = did_you_mean(name, available_timezones(), "write one such as 'Europe/Berlin'")
        raise ValueError(f"unknown time zone {name[:60]!r}: {hint}") from None


def _trigger_of(line: str) -> Any:
    from apscheduler.triggers.cron import CronTrigger

    fields = line.split()
    if len(fields) != len(FIELDS):
        raise ValueError(f"{line[:60]!r} has {len(fields)} fields: write {' '.join(FIELDS)}")
    try:
        fields[-1] = _weekday_names(fields[-1])
    except ValueError as error:
        raise ValueError(f"invalid cron line {line[:60]!r}: {error}") from error
    try:
        return CronTrigger.from_crontab(" ".join(fields), timezone=UTC)
    except ValueError:
        raise ValueError(f"invalid cron line {line[:60]!r}: {_what_is_wrong(fields)}") from None


def _what_is_wrong(fields: list[str]) -> str:
    """Return the field that APScheduler rejects; its own message names its classes instead."""
    for index, (name, values) in enumerate(_VALUES.items()):
        for part in fields[index].split(","):
            if not _is_accepted(part, index):
                return f"{name} {part[:20]!r}: write {values}, {_FORMS}"
    return f"write {' '.join(FIELDS)}"


def _is_accepted(part: str, index: int) -> bool:
    from apscheduler.triggers.cron import CronTrigger

    alone = ["*"] * len(FIELDS)
    alone[index] = part or "-"  # An empty part would drop the field.
    try:
        CronTrigger.from_crontab(" ".join(alone), timezone=UTC)
    except ValueError:
        return False
    return True


def _weekday_names(field: str) -> str:
    """Convert a crontab's weekdays to a list of names, which APScheduler reads the same way."""
    days = {day % 7 for part in field.lower().split(",") for day in _weekdays(part)}
    return ",".join(WEEKDAYS[day] for day in sorted(days))


def _weekdays(part: str) -> range:
    """Return the weekday numbers of one list entry; Sunday is 0, or 7 at the end of a range."""
    match = _PART.fullmatch(part)
    if match is None or (match["first"] and match["step"] and not match["last"]):
        raise ValueError(f"weekday {part!r}: {_HOW}")
    if match["first"] is None:
        return range(0, 7, int(match["step"] or 1))
    first = _weekday(match["first"])
    last = _weekday(match["last"] or match["first"])
    if match["last"] == "sun" and first:
        last = 7
    if first > last:
        raise ValueError(f"weekday {part!r}: a range must ascend, with Sunday as 0 or 7")
    return range(first, last + 1, int(match["step"] or 1))


def _weekday(name: str) -> int:
    if name in WEEKDAYS:
        return WEEKDAYS.index(name)
    if name not in tuple("01234567"):
        raise ValueError(f"weekday {name!r}: {did_you_mean(name, WEEKDAYS, _HOW)}")
    return int(name)

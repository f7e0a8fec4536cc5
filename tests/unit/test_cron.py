"""Cron lines, especially when clocks change."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from agentpipe.config.cron import Cron

BERLIN = "Europe/Berlin"
FORWARD, BACK = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)
DAY = timedelta(days=1)


def fired(line: str, day: datetime, zone: str = BERLIN) -> list[str]:
    """Fire times on a day in the zone's local time, as shown."""
    cron = Cron(line, zone)
    shown = [cron.shown(each) for each in cron.between(day - DAY, day + DAY)]
    return [each[11:22] for each in shown if each.startswith(f"{day:%Y-%m-%d}")]


def test_what_lies_in_a_skipped_hour_comes_an_hour_later() -> None:
    assert fired("30 2 * * *", FORWARD) == ["03:30:00+02"]
    assert fired("0 3 * * *", FORWARD) == ["03:00:00+02"]


def test_a_line_of_each_hour_leaves_the_skipped_one_out() -> None:
    assert fired("0 * * * *", FORWARD)[:4] == [
        "00:00:00+01",
        "01:00:00+01",
        "03:00:00+02",
        "04:00:00+02",
    ]
    assert len(fired("0 * * * *", FORWARD)) == 23
    assert len(fired("*/15 * * * *", FORWARD)) == 23 * 4


def test_what_lies_in_a_doubled_hour_comes_once() -> None:
    assert fired("30 2 * * *", BACK) == ["02:30:00+02"]
    assert fired("*/20 2,3 * * *", BACK) == [
        "02:00:00+02",
        "02:20:00+02",
        "02:40:00+02",
        "03:00:00+01",
        "03:20:00+01",
        "03:40:00+01",
    ]


def test_a_line_of_each_hour_comes_in_both() -> None:
    assert len(fired("0 * * * *", BACK)) == 25
    assert fired("30 * * * *", BACK)[2:4] == ["02:30:00+02", "02:30:00+01"]


def test_following_gives_what_between_gives() -> None:
    for line in ("*/20 * * * *", "30 2 * * *", "0 1-3 * * sun"):
        for zone in (BERLIN, "Australia/Lord_Howe"):
            cron = Cron(line, zone)
            for day in (FORWARD, BACK, datetime(2026, 4, 5, tzinfo=UTC)):
                moment: datetime | None = day - DAY
                for expected in cron.between(day - DAY, day + DAY):
                    assert moment is not None
                    moment = cron.following(moment)
                    assert moment == expected


def test_the_rare_ones_are_found() -> None:
    leap = Cron("0 0 29 2 *").following(datetime(2026, 3, 1, tzinfo=UTC))
    assert leap == datetime(2028, 2, 29, tzinfo=UTC)


# Weekdays have the same meaning as in a crontab.

NAMES = ("sun", "mon", "tue", "wed", "thu", "fri", "sat", "sun")
RANGES = [(first, last) for last in range(8) for first in range(last + 1)]


def weekdays(field: str) -> set[int]:
    """Weekdays that fire within two weeks, numbered as in a crontab."""
    cron = Cron(f"0 0 * * {field}")
    return {each.isoweekday() % 7 for each in cron.between(FORWARD, FORWARD + 14 * DAY)}


def test_a_weekday() -> None:
    assert [weekdays(str(day)) for day in range(8)] == [{0}, {1}, {2}, {3}, {4}, {5}, {6}, {0}]
    assert [weekdays(name) for name in NAMES] == [{0}, {1}, {2}, {3}, {4}, {5}, {6}, {0}]
    assert weekdays("SUN") == weekdays("Sun") == {0}


@pytest.mark.parametrize("step", range(1, 8))
def test_steps(step: int) -> None:
    assert weekdays(f"*/{step}") == {day for day in range(7) if day % step == 0}
    for first, last in RANGES:
        expected = {(first + more) % 7 for more in range(0, last - first + 1, step)}
        assert weekdays(f"{first}-{last}/{step}") == expected
        if (first, last) != (0, 7):
            assert weekdays(f"{NAMES[first]}-{NAMES[last]}/{step}") == expected


@pytest.mark.parametrize(("first", "last"), RANGES)
def test_ranges_and_lists(first: int, last: int) -> None:
    expected = {0 if day == 7 else day for day in range(8) if first <= day <= last}
    assert weekdays(f"{first}-{last}") == expected
    assert weekdays(f"{first},{last}") == {first % 7, last % 7}
    assert weekdays(f"{first}-{last},3") == expected | {3}
    assert weekdays(f"{NAMES[first]},{last}") == {first % 7, last % 7}


@pytest.mark.parametrize(
    ("field", "expected"),
    [
        ("*", set(range(7))),
        ("1-5", {1, 2, 3, 4, 5}),
        ("mon-fri", {1, 2, 3, 4, 5}),
        ("0,6", {0, 6}),
        ("5-7", {5, 6, 0}),
        ("fri-sun", {5, 6, 0}),
        ("sun-sun", {0}),
        ("sun-tue", {0, 1, 2}),
        ("mon-5", {1, 2, 3, 4, 5}),
        ("mon-fri/2", {1, 3, 5}),
        ("0-7", set(range(7))),
    ],
)
def test_weekdays_in_words(field: str, expected: set[int]) -> None:
    assert weekdays(field) == expected


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("7#2", "weekday '7#2': write 0 to 7 or sun to sat, a range such as 1-5 or mon-fri"),
        ("fri#1", "weekday 'fri#1': write"),
        ("5L", "weekday '5l': write"),
        ("?", "weekday '?': write"),
        ("8", "weekday '8': write"),
        ("-1", "weekday '-1': write"),
        ("07", "weekday '07': write"),
        ("\u0663", "weekday '\u0663': write"),
        ("1/2", "weekday '1/2': write"),
        ("*/0", "weekday '*/0': write"),
        ("*/8", "weekday '*/8': write"),
        ("*-3", "weekday '*-3': write"),
        ("1,,2", "weekday '': write"),
        ("1,", "weekday '': write"),
        ("5-1", "weekday '5-1': a range must ascend, with Sunday as 0 or 7"),
        ("sat-mon", "weekday 'sat-mon': a range must ascend"),
        ("1-9", "weekday '9': write"),
        ("monday", "weekday 'monday': did you mean 'mon'?"),
    ],
)
def test_a_wrong_weekday_is_refused(field: str, words: str) -> None:
    with pytest.raises(
        ValueError, match=re.escape(f"invalid cron line '0 0 * * {field}': {words}")
    ):
        Cron(f"0 0 * * {field}")


@pytest.mark.parametrize(
    ("line", "zone", "words"),
    [
        ("@daily", "UTC", "has 1 fields"),
        ("61 * * * *", "UTC", "minute '61': write 0 to 59, a range such as 1-5"),
        ("1,,2 * * * *", "UTC", "minute '': write 0 to 59"),
        ("*/0 * * * *", "UTC", "minute '*/0': write 0 to 59"),
        ("0 5,25 * * *", "UTC", "hour '25': write 0 to 23"),
        ("0 0 L * *", "UTC", "day 'L': write 1 to 31 or last"),
        ("0 0 * foo *", "UTC", "month 'foo': write 1 to 12 or jan to dec"),
        ("0 0 * 12-1 *", "UTC", "month '12-1': write 1 to 12"),
        ("0 0 31 4 *", "UTC", "never fires"),
        ("0 0 * * *", "../etc/passwd", "unknown time zone"),
        ("0 0 * * *", "Berlin", "unknown time zone"),
        ("0 0 * * *", "", "unknown time zone"),
    ],
)
def test_a_wrong_line_is_told(line: str, zone: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Cron(line, zone)

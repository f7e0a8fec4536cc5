"""Cron lines, above all where clocks are set."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta

import pytest

from agentpipe.config.cron import Cron

BERLIN = "Europe/Berlin"
FORWARD, BACK = datetime(2026, 3, 29, tzinfo=UTC), datetime(2026, 10, 25, tzinfo=UTC)
DAY = timedelta(days=1)


def fired(line: str, day: datetime, zone: str = BERLIN) -> list[str]:
    """On a day of the zone's clocks, as they show it."""
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


def test_weekdays_are_apschedulers() -> None:
    assert Cron("0 0 * * 0").following(FORWARD) == datetime(2026, 3, 30, tzinfo=UTC)  # A Monday.
    assert Cron("0 0 * * sun").following(FORWARD) == datetime(2026, 4, 5, tzinfo=UTC)


@pytest.mark.parametrize(
    ("line", "zone", "words"),
    [
        ("@daily", "UTC", "has 1 fields"),
        ("61 * * * *", "UTC", "maximum value (59)"),
        ("0 0 31 4 *", "UTC", "never fires"),
        ("0 0 * * *", "../etc/passwd", "unknown time zone"),
        ("0 0 * * *", "Berlin", "unknown time zone"),
        ("0 0 * * *", "", "unknown time zone"),
    ],
)
def test_a_wrong_line_is_told(line: str, zone: str, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        Cron(line, zone)

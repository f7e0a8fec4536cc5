"""ProgressMark: a schedule's progress, as one number in the broker's store.

It only rises: several schedulers can share it, and after a kill the next one resumes. A mark in the
future, left by a clock that was ahead, is set aside: the schedule continues with another mark,
whose name contains the first.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.capabilities import KeepsSchedules

# A mark is the fire time in Unix seconds; its last six digits count the tasks sent.
SCALE = 1_000_000
DONE = SCALE - 1

log = logging.getLogger(__name__)


def mark_of(fire_time: datetime, sent: int = DONE) -> int:
    """The mark of a firing after ``sent`` tasks; by default after all."""
    return int(fire_time.timestamp()) * SCALE + sent


class ProgressMark:
    """The mark of one schedule."""

    def __init__(self, calendar: KeepsSchedules, schedule: str, cron: str) -> None:
        self._calendar, self._schedule = calendar, schedule
        self._name = f"{schedule}/{cron}"
        self._put_aside = ""
        self._said: set[int] = set()

    def raise_to(self, mark: int) -> int | None:
        """The highest mark so far; None while another scheduler holds the schedule."""
        return self._calendar.progress(self._name + self._put_aside, mark)

    def current(self, now: datetime, tolerance: timedelta) -> int | None:
        """The mark to continue from; None while another scheduler holds the schedule."""
        self._put_aside = ""
        while True:
            # A schedule has no past before it is first seen.
            mark = self.raise_to(0) or self.raise_to(mark_of(now))
            if mark is None or mark <= mark_of(now + tolerance):
                return mark
            self._put_aside = f"/after {mark}"
            self._say(mark, now)

    def _say(self, mark: int, now: datetime) -> None:
        if mark not in self._said:
            self._said.add(mark)
            log.warning(
                "%s: its last firing was that of %s, but now it is %s: a clock was or is wrong; it"
                " goes on from now, see `agentpipe doctor`",
                self._schedule,
                datetime.fromtimestamp(mark // SCALE, UTC).isoformat(),
                now.isoformat(timespec="seconds"),
            )

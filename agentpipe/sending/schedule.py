"""Schedule: sends a task file at the fire times of a cron line.

Its progress is one number in the broker's store, its mark: the firing, and how many of its tasks
were sent. Several schedulers can share it, and after a kill the next one resumes.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import TYPE_CHECKING

from agentpipe.config.cron import Cron
from agentpipe.errors import AgentpipeError, Unreachable
from agentpipe.sending.firing import Fired, Firing, tasks_of
from agentpipe.sending.schedule_mark import DONE, SCALE, ProgressMark, mark_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.capabilities import KeepsSchedules
    from agentpipe.config.collection import ScheduleSpec
    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher

# A firing this late is still on time.
LATE = timedelta(seconds=60)
LOOK_BACK = timedelta(days=30)
# Tasks per update of the mark; on a store that remembers no ids, a kill repeats at most this many.
CHUNK = 100
FULL_PAUSE_S, AWAY_PAUSE_S, WRONG_PAUSE_S, NAP_S = 0.25, 1.0, 20.0, 60.0

log = logging.getLogger(__name__)


class Schedule:
    """One schedule of a collection; ``step`` never waits for room.

    Attributes:
        is_idle: Whether nothing is due, or another scheduler sends it.
    """

    def __init__(
        self,
        collection: str,
        spec: ScheduleSpec,
        dispatcher: Dispatcher,
        calendar: KeepsSchedules,
        on_fired: Callable[[Fired], None],
    ) -> None:
        self._collection, self._spec, self._dispatcher = collection, spec, dispatcher
        self._on_fired = on_fired
        self._cron = Cron(spec.cron, spec.timezone)
        self._name = f"{collection}/{spec.name}"
        self._mark = ProgressMark(calendar, self._name, f"{spec.cron}/{spec.timezone}")
        self._firing: Firing | None = None
        self._complaint = ""
        self._look_at = datetime.min.replace(tzinfo=UTC)
        self.is_idle = False

    def step(self, now: datetime, watched_from: datetime) -> float:
        """Do one step of what is due; return the seconds until the next call.

        Args:
            now: The time.
            watched_from: Since when this scheduler has run without a gap.
        """
        try:
            if self._firing is not None:
                return self._go_on(self._firing)
            rest_s = (self._look_at - now).total_seconds()
            if 0 < rest_s <= NAP_S:  # It is longer only if the clock was set back.
                return rest_s
            self.is_idle = False
            return self._begin(now, watched_from)
        except Unreachable as error:
            return self._complain(f"the broker {error.ailment}: {error}", AWAY_PAUSE_S)
        except AgentpipeError as error:
            self._firing = None
            return self._complain(f"its tasks cannot be sent: {error}", WRONG_PAUSE_S)

    # Choosing the firing.

    def _begin(self, now: datetime, watched_from: datetime) -> float:
        """Start the next firing, if one is due."""
        mark = self._mark.current(now, LATE)
        if mark is None:
            self._complain("another scheduler sends, this one is on standby", 0)
            return self._rest(now)
        at, sent = datetime.fromtimestamp(mark // SCALE, UTC), mark % SCALE
        if sent == DONE:
            due = self._cron.between(max(at, now - LOOK_BACK), now)
            chosen = self._choose(due, watched_from)
            if chosen is None:
                self._content()
                return self._rest(now)
            at, sent = chosen, 0
            if self._mark.raise_to(mark_of(at, 0)) != mark_of(at, 0):
                return 0.0  # Another scheduler was quicker: look again.
        self._firing = Firing(at, sent, islice(self._tasks(at), sent, None))
        return 0.0

    def _rest(self, now: datetime) -> float:
        """Sleep until the next firing, but not long enough to count as a gap."""
        self.is_idle = True
        nap = now + timedelta(seconds=NAP_S)
        self._look_at = min(nap, self._cron.following(now) or nap)
        return (self._look_at - now).total_seconds()

    def _choose(self, due: list[datetime], watched_from: datetime) -> datetime | None:
        """The next due firing, by the policy for missed ones."""
        missed = [each for each in due if each < watched_from - LATE]
        if not missed or self._spec.missed == "run_all":
            return due[0] if due else None
        if self._spec.missed == "run_once":
            self._log_missed(missed[:-1], f"that of {missed[-1].isoformat()} runs for them")
            return missed[-1]
        self._log_missed(missed, "skipped")
        self._mark.raise_to(mark_of(missed[-1]))
        on_time = due[len(missed) :]
        return on_time[0] if on_time else None

    def _log_missed(self, missed: Sequence[datetime], what: str) -> None:
        if missed:
            number, first = len(missed), missed[0].isoformat()
            log.warning("%s: %d firings missed since %s, %s", self._name, number, first, what)

    # Sending.

    def _go_on(self, firing: Firing) -> float:
        """Send a chunk, or its refused rest, and update the mark."""
        if not firing.refused:
            firing.refused = list(islice(firing.tasks, CHUNK))
            firing.chunk = len(firing.refused)
        if not firing.refused:
            return self._end(firing)
        self._offer(firing)
        if firing.refused:
            which = f"the tasks of {firing.at.isoformat()}, and later firings behind them"
            return self._complain(f"the queues are full: {which}, wait for room", FULL_PAUSE_S)
        self._content()
        firing.sent += firing.chunk
        return self._note(firing)

    def _offer(self, firing: Firing) -> None:
        for sent in self._dispatcher.send_batches(self._collection, list(firing.refused)):
            firing.accepted += sent.accepted
            firing.duplicates += sent.duplicates
            known = {*sent.task_ids, *sent.duplicate_ids}
            firing.refused = [task for task in firing.refused if task.task_id not in known]

    def _note(self, firing: Firing) -> float:
        """Raise the mark; skip tasks that another scheduler has sent meanwhile."""
        mark = self._mark.raise_to(firing.mark)
        if mark is None or mark // SCALE != firing.mark // SCALE or mark % SCALE == DONE:
            self._firing = None
            return 0.0
        ahead = max(0, mark % SCALE - firing.sent)
        firing.sent += sum(1 for _ in islice(firing.tasks, ahead))
        return 0.0

    def _end(self, firing: Firing) -> float:
        self._mark.raise_to(mark_of(firing.at))
        self._firing = None
        self._content()
        if not firing.sent:
            log.warning("%s: %s holds no task", self._name, self._spec.tasks_file)
        counts = (firing.accepted, firing.duplicates)
        self._on_fired(Fired(self._collection, self._spec.name, firing.at, *counts))
        return 0.0

    def _tasks(self, at: datetime) -> Iterator[AdmittedTask]:
        rules = self._dispatcher.rules_of(self._collection)
        return tasks_of(self._collection, self._spec, rules, at)

    # Logging.

    def _complain(self, why: str, wait_s: float) -> float:
        """Log a new problem once."""
        if why != self._complaint:
            log.warning("%s: %s", self._name, why)
        self._complaint = why
        return wait_s

    def _content(self) -> None:
        if self._complaint:
            log.warning("%s: goes on", self._name)
        self._complaint = ""

"""BlockedLoop: detects that the loop is blocked, and which run's code blocks it.

The executing run holds up all others. It alone is blamed: with ``limit`` if it exceeded its time
limit, otherwise with a crash. The others are released uncounted.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.logs import Bound
from agentpipe.errors import AgentCrashed

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.records import Settlement
    from agentpipe.worker.loop.event_loop import EventLoop
    from agentpipe.worker.running.message import ClaimedMessage

# A loop turn that lasts this long is blocked by an agent's code.
BLOCKED_AFTER_S = 5.0
# How long code that belongs to no held task, such as an agent's ``close``, can block a loop.
STRAY_LIMIT_S = 30.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Blame:
    """How to settle runs that end their process.

    Attributes:
        time_limit_s: Returns the time limit of a message's run.
        exceeded: Settles a run that exceeded its limit.
        crashed: Settles a run that ends its process for another reason, given as an error.
    """

    time_limit_s: Callable[[ClaimedMessage], float]
    exceeded: Callable[[ClaimedMessage], Settlement]
    crashed: Callable[[ClaimedMessage, AgentCrashed], Settlement]


class BlockedLoop:
    """Checks the loop from the watchdog's thread.

    Args:
        held: Returns what this process has claimed and not settled.
        end: Ends the process; takes the reason and the settlements of runs.
    """

    def __init__(
        self,
        loop: EventLoop,
        held: Callable[[], list[ClaimedMessage]],
        blame: Blame,
        end: Callable[[str, list[Settlement]], None],
    ) -> None:
        self._loop, self._held, self._blame, self._end = loop, held, blame, end
        self._turns = -1
        self._blocked_s = 0.0
        self._warned = False

    def look(self, tick_s: float) -> None:
        """Check the loop, ``tick_s`` after the last check.

        Blocked time is counted in ticks: while the process is stopped, the loop does not count as
        blocked.
        """
        turns = self._loop.turns
        turns_on = turns.turn_s == 0 or turns.turns != self._turns
        if turns_on or not self._loop.is_alive():  # One that has ended is in its last turn.
            self._turns, self._blocked_s, self._warned = turns.turns, 0.0, False
            return
        self._blocked_s += tick_s
        if self._blocked_s >= BLOCKED_AFTER_S:
            self._judge()

    def _judge(self) -> None:
        executing = self._loop.executing()
        unsettled = [message for message in self._held() if message.settlement is None]
        # Empty if a run that has already ended left code behind.
        culprits = [message for message in unsettled if message is executing]
        others = [message for message in unsettled if message is not executing]
        self._warn(culprits)
        if any(map(self._is_late, culprits)):
            why = "the loop is blocked beyond a time limit"
            self._end(why, list(map(self._blame.exceeded, culprits)))
        elif self._holds_up(others) or not (culprits or others or self._blocked_s < STRAY_LIMIT_S):
            why = "the loop is blocked for longer than the runs that wait for it may take"
            error = AgentCrashed(f"it blocked the event loop for {self._blocked_s:.0f} s")
            self._end(why, [self._blame.crashed(culprit, error) for culprit in culprits])

    def _warn(self, culprits: list[ClaimedMessage]) -> None:
        if self._warned:
            return
        self._warned = True
        runs = [Bound(culprit.claim.task_id, culprit.claim.queue) for culprit in culprits]
        log.warning(
            "an agent blocks the event loop, and all others in this process wait; give its "
            "collection `isolation: thread`. Its stack:\n%s",
            self._loop.stack(),
            extra={"bound": runs[0] if runs else None},
        )

    def _is_late(self, message: ClaimedMessage) -> bool:
        begun_at = message.begun_at
        if begun_at is None:
            return False
        return time.monotonic() - begun_at > self._blame.time_limit_s(message) + BLOCKED_AFTER_S

    def _holds_up(self, others: list[ClaimedMessage]) -> bool:
        """Whether other runs have waited longer than their own time limits."""
        limits_s = map(self._blame.time_limit_s, others)
        return self._blocked_s > min(limits_s, default=math.inf) + BLOCKED_AFTER_S

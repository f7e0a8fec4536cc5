"""Cooldowns: how long agents that share a credential pause after its service's rate limit.

Each worker process remembers the cooldowns that its own runs caused; the store applies them to the
fleet, and the longest of several counts. A restarted worker starts again with the first pause.
"""

from __future__ import annotations

import logging
import math
import random
import time
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from agentpipe.core.backoff import delay_s
from agentpipe.core.failures import error_kind, error_record
from agentpipe.core.redaction import Redactor
from agentpipe.errors import AgentFailed

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.core.failures import RateLimit
    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.running.served_actor import Credential

FIRST_S, LONGEST_S = 5.0, 60.0
# Up to a quarter longer, so the contexts of a service do not all come back at once.
JITTER = 1.25
# A service's own delay is followed this many times in a row; after that the pauses also grow.
BELIEVED = 5
# A run that asks for a cooldown at most this much longer does not announce it again.
SAME_S = 0.5
# Lower bound of a cooldown's limit: a task with almost no time left must not hurry a service.
LEAST_BOUND_S = 1.0

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Cooldown:
    """The cooldown that a run's end asks for.

    Attributes:
        queues: Queues that it covers beside the run's own.
    """

    delay_s: float
    queues: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class _Round:
    """Consecutive cooldowns of one credential, with no successful run in between.

    Attributes:
        number: How many there were.
        until: When the last one ends, by the clock.
    """

    number: int
    until: float


class CredentialCooldowns:
    """The cooldowns of the credentials that one worker uses."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._rounds: dict[str, _Round] = {}

    def __bool__(self) -> bool:
        """Whether there has been any cooldown."""
        return bool(self._rounds)

    def begin(self, credential: Credential, limit: RateLimit, most_s: float = math.inf) -> Cooldown:
        """Start a cooldown, of at most ``most_s``, after a run hit the limit.

        Runs that were in progress when a cooldown began hit the same limit: they join that
        cooldown.
        """
        now, last = self._clock(), self._rounds.get(credential.name, _Round(0, 0.0))
        if now < last.until:
            joined = self._join(credential, last, now + min(limit.asked_s or 0.0, most_s), now)
            return replace(joined, delay_s=min(joined.delay_s, most_s))
        number = last.number + 1
        pause_s = min(_pause_s(number, limit.asked_s), most_s)
        self._rounds[credential.name] = _Round(number, now + pause_s)
        return Cooldown(pause_s, credential.queues())

    def _join(self, credential: Credential, last: _Round, until: float, now: float) -> Cooldown:
        if until <= last.until + SAME_S:
            return Cooldown(max(until, last.until) - now)
        self._rounds[credential.name] = _Round(last.number, until)
        return Cooldown(until - now, credential.queues())

    def end(self, credential: Credential) -> None:
        """Note that a run succeeded: the next cooldown starts with the first pause."""
        if last := self._rounds.get(credential.name):
            self._rounds[credential.name] = _Round(0, last.until)


def _pause_s(number: int, asked_s: float | None) -> float:
    if asked_s is None:
        return _growing_s(number)
    return asked_s if number <= BELIEVED else max(asked_s, _growing_s(number - BELIEVED))


def _growing_s(number: int) -> float:
    longest_s = LONGEST_S / JITTER
    return delay_s(number, FIRST_S, longest_s) * random.uniform(1.0, JITTER)  # noqa: S311 - no secret


def log_cooldown(
    message: ClaimedMessage, error: BaseException, limit: RateLimit, cooldown: Cooldown
) -> None:
    """Log a cooldown."""
    queue = message.claim.queue
    others = len(set(cooldown.queues) - {queue})
    log.warning(
        "%s; cooldown of %s for %.1f s%s%s",
        error_kind(error),
        queue,
        cooldown.delay_s,
        _why_so_long(limit, cooldown),
        f"; it covers {others} more agents of its context" if others else "",
        extra=message.log_extra,
    )


def _why_so_long(limit: RateLimit, cooldown: Cooldown) -> str:
    if limit.asked_s is None:
        return ""
    if limit.asked_s <= cooldown.delay_s + SAME_S:
        return ", as the service asked"
    return f", what is left of max_cooldown_s: the service asked for {limit.asked_s:,.0f} s"


def bound_s(cooled_s: float, allowed_s: float) -> float:
    """Most seconds of a task's next cooldown: a service can ask for any delay."""
    return max(allowed_s - cooled_s, LEAST_BOUND_S)


def endless(error: BaseException, cooled_s: float, allowed_s: float) -> AgentFailed:
    """The error of a task that has waited too long in cooldowns."""
    record = error_record(error, Redactor(()))
    waited = f"waited {cooled_s:,.0f} s in cooldowns, at most max_cooldown_s: {allowed_s:g}"
    return AgentFailed(
        f"{record['message']} ({waited})",
        kind=record["type"],
        traceback=record["traceback"],
        infra=True,
    )

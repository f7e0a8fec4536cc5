"""ServedAgent: an agent that a worker serves, its deliveries, and what can run now."""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import RUNS_IN_MEAN

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.records import Claim, Queue

# First offers to prefetch beyond the concurrency limit: as many as the limit, at most AHEAD; always
# AHEAD if runs are brief, which end faster than the server stores their results.
AHEAD = 16
BRIEF_S, BRIEF_RUNS = 0.1, 8
# As many if they are worked off within DEEP_S, and small. Each waits for the sink to confirm its
# result before the server delivers another one, and the sink confirms hundreds at a time.
DEEP_AHEAD, DEEP_S, DEEP_BYTES = 128, 1.0, 16 * 1024
# How long a task that may end its worker waits at most for what that would repeat or hold up.
POSTPONED_S = 10.0


@dataclass(frozen=True, slots=True)
class Prefetched:
    """A delivered, unclaimed task.

    Attributes:
        returned: Whether it was accepted before.
        recovers: Whether it ran on a worker that died, and is not known to have ended one; only if
            returned.
    """

    message: Message
    tag: int
    returned: bool = False
    recovers: bool = False


@dataclass(slots=True)
class Group:
    """A concurrency group; this worker serves all its agents, by queue."""

    limit: int
    active: int = 0
    agents: dict[str, ServedAgent] = field(default_factory=dict)

    def ready(self) -> list[ServedAgent]:
        """Agents with a task that can run now, the least recently served first."""
        if self.active >= self.limit:
            return []
        return sorted((it for it in self.agents.values() if it.has_room), key=lambda it: it.served)


@dataclass(slots=True)
class ServedAgent:
    """An agent that this worker serves.

    Attributes:
        unit: What its lock covers.
        searched_at: When its queues were searched for runs of a lost connection, on the monotonic
            clock; None before.
        consumers: Consumer tags, by queue name.
        is_consumed: Whether each queue of its tasks has a consumer.
        is_opening: Whether deliveries of its earlier worker may not have arrived.
        is_withheld: Whether first offers are not claimed, because returned tasks wait.
        ahead: The number of first offers to prefetch beyond the concurrency limit.
        judging: The number of redelivered tasks whose worker died and that are being judged.
        running: The number of its claims.
        active: The number of claims whose runs have not ended, as far as we know.
        is_searched: Whether its queues are being searched for runs of a lost connection.
        resting: Whether nothing can be claimed now, although tasks were delivered.
        leaving: Whether it moves to another worker once nothing of it runs.
        served: The number of its last claim.
        postponed: The tag of the last task that waited because it may end this worker, and since
            when, on the monotonic clock.
        yields_until: Until when waiting tasks are left to an operator, on the monotonic clock.
        run_s: Mean duration of its last runs; None before the first.
        task_bytes: Mean size of their tasks.
        is_brief: Whether its last runs, at least ``BRIEF_RUNS``, were brief.
        is_instant: Whether ``DEEP_AHEAD`` of its tasks are small and soon worked off.
    """

    queue: Queue
    unit: str
    searched_at: float | None = None
    group: Group | None = None
    consumers: dict[str, str] = field(default_factory=dict)
    is_consumed: bool = False
    is_opening: bool = False
    is_withheld: bool = False
    ahead: int = 0
    judging: int = 0
    ready: deque[Prefetched] = field(default_factory=deque)
    running: int = 0
    active: int = 0
    is_searched: bool = False
    resting: bool = False
    leaving: bool = False
    served: int = 0
    postponed: tuple[int, float] | None = None
    yields_until: float = 0.0
    run_s: float | None = None
    task_bytes: float = 0.0
    is_brief: bool = False
    is_instant: bool = False
    _runs: int = 0

    def add(self, prefetched: Prefetched) -> None:
        """Add a task; returned tasks go before first offers, which were sent later.

        What ran on a worker that died goes before what may have ended one.
        """
        if not prefetched.returned:
            self.ready.append(prefetched)
            return
        ahead = sum(it.recovers if prefetched.recovers else it.returned for it in self.ready)
        self.ready.insert(ahead, prefetched)

    @property
    def has_room(self) -> bool:
        """Whether a task can be claimed now."""
        if self.leaving or self.resting or not self.ready:
            return False
        if self.is_withheld and not self.ready[0].returned:
            return False
        return self.active < self.queue.concurrency

    @property
    def prefetch(self) -> int:
        """How many first offers the server may deliver: the next is here while one is settled.

        Returned tasks may have killed their worker: the server delivers only as many as can run.
        """
        return self.queue.concurrency + self.ahead

    @property
    def is_drained(self) -> bool:
        """Whether all waiting tasks were delivered: there is room, but the server sends no more."""
        if self.leaving or self.resting or not self.is_consumed:
            return False
        return self.running + len(self.ready) < self.queue.concurrency

    def note_run(self, run_s: float, task_bytes: int) -> bool:
        """Record a run that ended; returns whether to prefetch another number of tasks."""
        mean = run_s if self.run_s is None else self.run_s
        self.run_s = mean + (run_s - mean) / RUNS_IN_MEAN
        self.task_bytes += (task_bytes - self.task_bytes) / RUNS_IN_MEAN
        self._runs += 1
        before, are_short = (self.is_brief, self.is_instant), self.run_s < BRIEF_S
        self.is_brief = are_short and (self.is_brief or self._runs >= BRIEF_RUNS)
        self._runs = self._runs if are_short else 0
        self.is_instant = self.is_brief and self._is_worked_off_soon(self.run_s)
        return (self.is_brief, self.is_instant) != before

    def _is_worked_off_soon(self, run_s: float) -> bool:
        """Whether that applies to many tasks; a bit longer if it did, as each change costs time."""
        most = 2 if self.is_instant else 1
        soon = run_s * DEEP_AHEAD <= most * DEEP_S * self.queue.concurrency
        return soon and self.task_bytes <= most * DEEP_BYTES

    def count_active(self, runs: int) -> None:
        """Change the number of active runs."""
        self.active += runs
        if self.group is not None:
            self.group.active += runs

    def suspects(self, message: Message) -> bool:
        """Whether the task must run alone: it may have killed a worker, and one crash is final."""
        return message.suspect > 0 and self.queue.max_crashes == 1

    def has_to_wait(
        self, gives_way: Callable[[Message], bool], is_isolated: Callable[[], bool]
    ) -> bool:
        """Whether the next task could end others that come before it."""
        message = self.ready[0].message
        if gives_way(message) and self._is_postponed(self.ready[0].tag):
            return True
        return self.in_last_chance(message) and not is_isolated()

    def _is_postponed(self, tag: int) -> bool:
        """Whether the task waits for others; not for long, as there can always be some."""
        now = time.monotonic()
        if self.postponed is None or self.postponed[0] != tag:
            self.postponed = tag, now
        return now - self.postponed[1] < POSTPONED_S

    def in_last_chance(self, message: Message) -> bool:
        """Whether one more crash would end a task that has crashed before."""
        return 0 < message.crashes == self.queue.max_crashes - 1


@dataclass(frozen=True, slots=True)
class Held:
    """A claimed task.

    Attributes:
        since: When it was claimed, in Unix seconds.
        begun: The same on the monotonic clock.
        recovers: Whether it recovers from the end of a worker; see ``Prefetched``.
    """

    claim: Claim
    message: Message
    tag: int
    agent: ServedAgent
    since: float
    begun: float = field(default_factory=time.monotonic)
    recovers: bool = False

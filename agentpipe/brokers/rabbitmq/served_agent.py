"""ServedAgent: an agent that a worker serves, what was delivered of it, and what may run now."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import RUNS_IN_MEAN

if TYPE_CHECKING:
    import asyncio

    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.records import Queue

# So many first offers lie ready beside what runs: as many as may run, up to this; and this many
# where runs are brief, which end faster than the server stores what came of them.
AHEAD = 16
BRIEF_S, BRIEF_RUNS = 0.1, 16


@dataclass(frozen=True, slots=True)
class Prefetched:
    """A task that was delivered and is not claimed; ``returned`` if it was accepted before."""

    message: Message
    tag: int
    returned: bool = False


@dataclass(slots=True)
class Group:
    """A concurrency group, all of whose agents this worker serves, by queue."""

    limit: int
    active: int = 0
    agents: dict[str, ServedAgent] = field(default_factory=dict)

    def ready(self) -> list[ServedAgent]:
        """Those with a task that may run now, the longest unserved first."""
        if self.active >= self.limit:
            return []
        return sorted((it for it in self.agents.values() if it.has_room), key=lambda it: it.served)


@dataclass(slots=True)
class ServedAgent:
    """An agent that this worker serves.

    Attributes:
        unit: What its lock covers.
        consumers: Their tags, by the queue's name.
        is_consumed: There is one for each queue in which its tasks may wait.
        is_withheld: There is none for first offers, since returned tasks wait.
        ahead: So many first offers are delivered beside what may run.
        judging: So many were delivered again whose worker died, and are being put back.
        undecided: Those of them of which it is not known yet whether that counts, or that do not.
        running: Its claims.
        active: Those of them whose runs have not ended, as far as is known.
        resting: Nothing may be claimed of it now, whatever was delivered.
        leaving: It becomes another worker's as soon as nothing of it runs.
        served: The number of its last claim.
        yields_until: Until then what waits is an operator's; on the monotonic clock.
        run_s: Mean duration of its last runs; None before the first.
        is_brief: Its last runs were brief, ``BRIEF_RUNS`` at least.
    """

    queue: Queue
    unit: str
    group: Group | None = None
    consumers: dict[str, str] = field(default_factory=dict)
    is_consumed: bool = False
    is_withheld: bool = False
    ahead: int = 0
    judging: int = 0
    undecided: set[asyncio.Task[None]] = field(default_factory=set)
    ready: deque[Prefetched] = field(default_factory=deque)
    running: int = 0
    active: int = 0
    resting: bool = False
    leaving: bool = False
    served: int = 0
    yields_until: float = 0.0
    run_s: float | None = None
    is_brief: bool = False
    _runs: int = 0

    @property
    def has_room(self) -> bool:
        """Whether a task could be claimed now."""
        if self.leaving or self.resting:
            return False
        return bool(self.ready) and self.active < self.queue.concurrency

    @property
    def prefetch(self) -> int:
        """How many first offers the server may deliver: the next is here while one is settled.

        What was returned may have killed its worker: no more of that than may run.
        """
        return self.queue.concurrency + self.ahead

    @property
    def is_drained(self) -> bool:
        """Whether all that waits was delivered: the server would deliver more, if it had any."""
        if self.leaving or self.resting or not self.is_consumed:
            return False
        return self.running + len(self.ready) < self.queue.concurrency

    def note_run_s(self, run_s: float) -> bool:
        """A run has ended; the latest weigh most. Whether runs are brief now, or no longer."""
        mean = run_s if self.run_s is None else self.run_s
        self.run_s = mean + (run_s - mean) / RUNS_IN_MEAN
        self._runs += 1
        was_brief, are_short = self.is_brief, self.run_s < BRIEF_S
        self.is_brief = are_short and (was_brief or self._runs >= BRIEF_RUNS)
        self._runs = self._runs if are_short else 0
        return self.is_brief is not was_brief

    def count_active(self, runs: int) -> None:
        """So many more are active, or fewer."""
        self.active += runs
        if self.group is not None:
            self.group.active += runs

    def suspects(self, message: Message) -> bool:
        """Whether it must run alone: it may have killed a worker, and one crash is the limit."""
        return message.suspect > 0 and self.queue.max_crashes == 1

    def in_last_chance(self, message: Message) -> bool:
        """Whether one crash more would end a task that has crashed before."""
        return 0 < message.crashes == self.queue.max_crashes - 1

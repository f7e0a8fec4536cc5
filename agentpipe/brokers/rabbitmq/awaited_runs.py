"""AwaitedRuns: the runs of a lost connection whose tasks are not redelivered yet. No I/O."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.rabbitmq.served_agent import Held, ServedAgent

# Time for a run's task to be delivered again, once this worker has searched for it.
REUNION_S = 5.0


class AwaitedRuns:
    """The runs by task: the same id can run under two agents, and can be sent again.

    Args:
        agents: The agents that the worker serves now, by queue.

    Attributes:
        elsewhere: The agents that other workers serve, of those with awaited runs.
    """

    def __init__(self, agents: Mapping[str, ServedAgent], lease_s: float) -> None:
        self.elsewhere: frozenset[str] = frozenset()
        self._agents, self._lease_s, self._since = agents, lease_s, time.monotonic()
        self._runs: dict[tuple[str, str, int], Held] = {}
        self._numbers: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._runs)

    def add(self, runs: Iterable[Held]) -> None:
        """Await the tasks of these runs."""
        for each in runs:
            self._runs[_key(each.message)] = each
        self._numbers = Counter(queue for queue, *_ in self._runs)

    def take(self, message: Message) -> Held | None:
        """Await the run of this task no longer; None if it is not awaited."""
        taken = self._runs.pop(_key(message), None)
        if taken is not None:
            self._numbers[message.queue] -= 1
        return taken

    def clear(self) -> None:
        """Await nothing."""
        self._runs.clear()
        self._numbers.clear()

    @property
    def all(self) -> list[Held]:
        """The awaited runs; from any thread."""
        return list(self._runs.values())

    @property
    def is_past(self) -> bool:
        """Whether the server has surely noticed the end of the last connection."""
        return time.monotonic() >= self._since + self._lease_s

    @property
    def queues(self) -> frozenset[str]:
        """The agents with awaited runs."""
        return frozenset(queue for queue, number in self._numbers.items() if number)

    @property
    def owned(self) -> frozenset[str]:
        """These agents, and those that the worker serves: others leave them to it."""
        return self.queues.union(self._agents)

    def of(self, queue: str) -> int:
        """How many runs of this agent are awaited."""
        return self._numbers[queue]

    @property
    def overdue(self) -> list[Held]:
        """Those whose tasks were not delivered again in time; from any thread."""
        now = time.monotonic()
        return [it for it in self.all if now >= self._expected_by(it)]

    def _expected_by(self, awaited: Held) -> float:
        """The server can take a lease to notice that the last connection has ended.

        The search can take long: a worker takes over many agents at once.
        """
        queue = awaited.claim.queue
        if agent := self._agents.get(queue):
            searched = agent.searched_at
            return self._since + self._lease_s if searched is None else searched + REUNION_S
        return self._since + (REUNION_S if queue in self.elsewhere else self._lease_s)


def _key(message: Message) -> tuple[str, str, int]:
    return message.queue, message.task_id, message.submitted_ms

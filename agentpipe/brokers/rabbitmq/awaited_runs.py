"""AwaitedRuns: the runs of a lost connection whose tasks are not redelivered yet. No I/O."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.served_agent import Held

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.brokers.rabbitmq.served_agent import ServedAgent
    from agentpipe.brokers.records import Claim

# Time for a run's task to be delivered again, once this worker serves its agent again.
REUNION_S = 5.0


def task_key(claim: Claim) -> tuple[str, str]:
    """The agent and the id of the claim's task: the same id can run under two agents."""
    return claim.queue, claim.task_id


class AwaitedRuns(dict[tuple[str, str], Held]):
    """The runs by ``task_key``.

    Args:
        agents: The agents that the worker serves now, by queue.

    Attributes:
        elsewhere: The agents that other workers serve, of those with awaited runs.
    """

    def __init__(self, agents: Mapping[str, ServedAgent], lease_s: float) -> None:
        super().__init__()
        self.elsewhere: frozenset[str] = frozenset()
        self._agents, self._lease_s, self._since = agents, lease_s, time.monotonic()

    @property
    def queues(self) -> frozenset[str]:
        """The agents with awaited runs."""
        return frozenset(it.claim.queue for it in self.values())

    def of(self, agent: ServedAgent) -> int:
        """How many runs of this agent are awaited."""
        return [it.claim.queue for it in self.values()].count(agent.queue.name)

    @property
    def overdue(self) -> list[Held]:
        """Those whose tasks were not delivered again in time; from any thread."""
        now = time.monotonic()
        return [it for it in list(self.values()) if now >= self._expected_by(it)]

    def _expected_by(self, awaited: Held) -> float:
        """The server can take a lease to notice that the last connection has ended."""
        queue = awaited.claim.queue
        if agent := self._agents.get(queue):
            return agent.since + REUNION_S
        return self._since + (REUNION_S if queue in self.elsewhere else self._lease_s)

"""Exposed: what the end of a worker would repeat, or hold up, at this moment. No I/O."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Iterator, Mapping

    from agentpipe.brokers.rabbitmq.messages import Message
    from agentpipe.brokers.rabbitmq.served_agent import Held, ServedAgent


class Exposed:
    """What a task that may end its worker waits for.

    Args:
        agents: The agents that the worker serves, by queue.
        runs: Returns its claims.
        settling: Its claims that are being settled.
    """

    def __init__(
        self,
        agents: Mapping[str, ServedAgent],
        runs: Callable[[], Iterable[Held]],
        settling: Collection[int],
    ) -> None:
        self._agents, self._runs, self._settling = agents, runs, settling
        self._moves = 0

    @contextmanager
    def moving(self) -> Iterator[None]:
        """Note that tasks exist twice: their copies are published before they are acknowledged."""
        self._moves += 1
        try:
            yield
        finally:
            self._moves -= 1

    @property
    def is_moving(self) -> bool:
        """Whether some tasks exist twice."""
        return self._moves > 0

    def come_before(self, message: Message) -> bool:
        """Whether anything does.

        What exists twice would run twice, and so would what is being settled, which a busy worker
        always has: only a known culprit waits for that, and for the runs that a worker's end has
        interrupted, which would be the same ones again and again.
        """
        if not message.is_risky:
            return False
        if self._moves or any(map(_are_arriving, self._agents.values())):
            return True
        return message.culprit > 0 and (bool(self._settling) or self._recovers)

    @property
    def _recovers(self) -> bool:
        """Whether what ran on a worker that died runs, or waits here."""
        running = (it for it in self._runs() if it.claim.number not in self._settling)
        here = (it.ready[0] for it in self._agents.values() if it.ready)
        return any(it.recovers for it in running) or any(it.recovers for it in here)


def _are_arriving(agent: ServedAgent) -> bool:
    """Whether tasks of a dead worker are on their way."""
    return agent.is_opening or agent.judging > 0

"""Delivered: a task as delivered to a worker, before it is claimed."""

from __future__ import annotations

from typing import NamedTuple

# No task has this delivery number.
UNREAD = (1 << 64) - 1


class Delivered(NamedTuple):
    """A delivered task, or all deliveries of an agent that its worker has not read.

    Attributes:
        task_id: The task's id, or the agent's queue.
        number: The store's delivery number; changes after each worker death that counts against the
            task. ``UNREAD`` for an agent.
        begun: Whether its run had begun and not ended when its worker did.
        ended: Whether its run had ended, but was not settled when its worker ended.
        culprit: Whether its run is known to have held its worker.
    """

    task_id: str
    number: int
    begun: bool = False
    ended: bool = False
    culprit: bool = False

    @property
    def is_task(self) -> bool:
        """Whether it is one task, which the worker has read."""
        return self.number != UNREAD

"""Delivered: a task as delivered to a worker, before it is claimed."""

from __future__ import annotations

from typing import NamedTuple


class Delivered(NamedTuple):
    """A delivered task.

    Attributes:
        task_id: The task's id.
        number: The store's delivery number; changes after each worker death that counts against the
            task.
        begun: Whether its run had begun and not ended when its worker did.
    """

    task_id: str
    number: int
    begun: bool = False

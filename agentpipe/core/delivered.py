"""Delivered: a task as a worker had it, before any claim of it."""

from __future__ import annotations

from typing import NamedTuple


class Delivered(NamedTuple):
    """What a worker had of a task.

    Attributes:
        task_id: The task's.
        number: The store's own: another one after each end of a worker that counted for the task.
    """

    task_id: str
    number: int

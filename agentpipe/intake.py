"""Intake: what a task must pass before anybody accepts it."""

from __future__ import annotations

from typing import Any

from agentpipe.errors import TaskError
from agentpipe.evaluate import check
from agentpipe.task import Task


def admit(data: Any) -> Task:
    """The Task in ``data``, with an id and with evaluators that can work.

    Raises:
        TaskError: Saying what is wrong and what is right.
    """
    task = Task.load(data, give_id=True)
    if task.evaluators and (problems := check(task.evaluators)):
        raise TaskError("; ".join(problems))
    return task

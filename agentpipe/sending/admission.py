"""Intake: what a task must pass before anybody accepts it."""

from __future__ import annotations

from typing import Any

from agentpipe.core.task import Task
from agentpipe.errors import TaskError
from agentpipe.evaluation.evaluators import check


def judged(data: Any) -> tuple[Task | None, list[str]]:
    """The Task in ``data``, with an id, and all that keeps it from being accepted."""
    try:
        task = Task.load(data, give_id=True)
    except TaskError as error:
        return None, [str(error)]
    return task, check(task.evaluators)


def admit(data: Any) -> Task:
    """The Task in ``data``, with an id and with evaluators that can work.

    Raises:
        TaskError: Saying what is wrong and what is right.
    """
    task, problems = judged(data)
    if task is None or problems:
        raise TaskError("; ".join(problems))
    return task

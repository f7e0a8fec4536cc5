"""Firings: what a schedule sends at one of its times.

A task's id combines its own id, the schedule and the fire time: if two schedulers send the same
task, it is accepted once.
"""

from __future__ import annotations

import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from agentpipe.core.run_names import is_of_run, prefix_of
from agentpipe.core.task_fields import MAX_ID
from agentpipe.errors import ConfigError, Problem
from agentpipe.sending.checked_tasks import check_file, checked_tasks
from agentpipe.sending.schedule_mark import DONE, mark_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator
    from datetime import datetime
    from pathlib import Path

    from agentpipe.config.collection import Collection, ScheduleSpec
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.sending.admission import AdmittedTask


@dataclass(slots=True)
class Firing:
    """A firing that is being sent.

    Attributes:
        sent: Number of the file's tasks that need not be sent again.
        refused: Tasks of the current chunk that found no room yet.
        chunk: Size of the current chunk.
    """

    at: datetime
    sent: int
    tasks: Iterator[AdmittedTask]
    accepted: int = 0
    duplicates: int = 0
    chunk: int = 0
    refused: list[AdmittedTask] = field(default_factory=list)

    @property
    def mark(self) -> int:
        """Its progress as a mark."""
        return mark_of(self.at, min(self.sent, DONE - 1))


@dataclass(frozen=True, slots=True)
class Fired:
    """A firing whose tasks are all in the store.

    Attributes:
        accepted: Tasks accepted from this scheduler.
        duplicates: Tasks that a killed or a concurrent scheduler sent before.
    """

    collection: str
    schedule: str
    fire_time: datetime
    accepted: int
    duplicates: int


def tasks_of(
    collection: str, spec: ScheduleSpec, rules: TaskRules, at: datetime
) -> Iterator[AdmittedTask]:
    """The file's tasks for one firing; none while the file has a mistake.

    Raises:
        ConfigError: With everything that is wrong.
    """
    _refuse_yaml(spec.tasks_file)
    marks = {"schedule": spec.name, "fire_time": at.isoformat()}
    ending = f"{collection}.{spec.name}@{at:%Y%m%dT%H%M%SZ}"
    return (
        _fired(task, task.task_id if task.named else str(number), ending, marks)
        for number, task in enumerate(checked_tasks(spec.tasks_file, rules), 1)
    )


def _fired(task: AdmittedTask, own: str, ending: str, marks: dict[str, str]) -> AdmittedTask:
    """The task as one firing sends it, with the id that every scheduler gives it."""
    task_id = f"{own}@{ending}"
    if len(task_id) > MAX_ID:
        task_id = uuid.uuid5(uuid.NAMESPACE_OID, task_id).hex
    whole = task.task
    if whole.run is not None and not is_of_run(task_id, whole.run):
        task_id = f"{prefix_of(whole.run)}{task_id}"
    return task.with_fields(task_id=task_id, metadata=marks | whole.metadata)


def check_files(collections: Iterable[Collection]) -> None:
    """Read and check all task files.

    Raises:
        ConfigError: With everything that is wrong in any of them.
    """
    problems: list[Problem] = []
    files = [(spec.tasks_file, each.task_rules) for each in collections for spec in each.schedule]
    for path, rules in dict.fromkeys(files):
        try:
            _refuse_yaml(path)
            check_file(path, rules)
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)


def _refuse_yaml(path: Path) -> None:
    if path.suffix.lower() in {".yaml", ".yml"}:
        raise ConfigError(Problem("a schedule sends task files: name a .json or .jsonl", str(path)))

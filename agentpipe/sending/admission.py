"""Admission: the checks that a task must pass before it is sent, done once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Offer
from agentpipe.config.task_rules import NO_RULES
from agentpipe.core.task import Task, checked, encode_stamped, encode_with
from agentpipe.core.task_fields import OURS
from agentpipe.errors import TaskError
from agentpipe.evaluation.checks import evaluator_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.config.task_rules import TaskRules


@dataclass(frozen=True, slots=True)
class AdmittedTask:
    """A task that passed all checks; made by ``examine`` and ``admit``.

    Fields that a run or a group adds are kept beside the task and written into its payload once,
    when it is offered: all its samples share the task.

    Attributes:
        fields: What its sender gave, and an id, unless a run's plan assigns one.
        encoded: The same as the store keeps it.
        named: Whether its sender gave the id.
        line: Its line in its file, from 1; 0 without a file.
        added: Fields added since.
    """

    fields: Mapping[str, Any]
    encoded: bytes
    named: bool = True
    line: int = 0
    added: Mapping[str, Any] = field(default_factory=dict)

    @property
    def task(self) -> Task:
        """The task with all its fields."""
        return Task.of({**self.fields, **self.added})

    @property
    def task_id(self) -> str:
        """Its id; empty if a run's plan assigns one."""
        return str(self.added.get("task_id") or self.fields.get("task_id", ""))

    def with_fields(self, **fields: Any) -> AdmittedTask:
        """Copy with more fields, already known to be valid; an id counts as its sender's."""
        added = {**self.added, **fields} if self.added else fields
        named = self.named or "task_id" in fields
        return AdmittedTask(self.fields, self.encoded, named, self.line, added)

    def stamped(self, config_hash: str) -> bytes:
        """The payload with its sender's fingerprint.

        Raises:
            TaskError: With the added fields it exceeds the size limit of a task.
        """
        if not self.added:
            return encode_stamped(self.encoded, self.fields, config_hash)
        fields = {**self.added, "config_hash": config_hash or None}
        return encode_with(self.encoded, self.fields, fields)

    def offer(self, config_hash: str) -> Offer:
        """The task as it is offered to a store; see ``stamped``."""
        given = self.fields
        group_id = self.added.get("group_id") if self.added else None
        return Offer(
            self.task_id if self.added else given.get("task_id", ""),
            self.stamped(config_hash),
            given.get("priority", 0),
            group_id=given.get("group_id") if group_id is None else group_id,
        )


def examine(
    data: Any, rules: TaskRules = NO_RULES, line: int = 0
) -> tuple[AdmittedTask | None, list[str]]:
    """Return the task in ``data``, and everything that prevents sending it.

    ``data`` is what ``Task.load`` takes; ``rules`` are those of its collection. The task is None
    only if no Task could be made.
    """
    try:
        fields, encoded = checked(data, give_id=rules.plan is None)
    except TaskError as error:
        return None, [*error.messages, *_evaluator_problems(data, rules)]
    admitted = AdmittedTask(fields, encoded, _has_id(data), line)
    wrong = _ours(data)
    if given := fields.get("evaluators"):
        wrong += evaluator_problems(given, rules.functions)
    if rules.may_refuse(fields):
        wrong += rules.problems(admitted.task)
    return admitted, wrong + rules.plan.problems(fields) if rules.plan else wrong


def _ours(data: Any) -> list[str]:
    """Reject reserved keys: an object from outside cannot set what only agentpipe sets."""
    if not isinstance(data, dict) or OURS.isdisjoint(data):
        return []
    given = [name for name in data if name in OURS and data[name] is not None]
    return [f"{name}: only agentpipe sets it: remove the key" for name in given]


def _evaluator_problems(data: Any, rules: TaskRules) -> list[str]:
    """Problems of a malformed task's evaluators, if it has any."""
    given = data.get("evaluators") if isinstance(data, dict) else None
    sound = isinstance(given, list) and all(isinstance(each, dict) for each in given)
    return evaluator_problems(given, rules.functions) if sound and given else []


def _has_id(data: Any) -> bool:
    task_id = data.get("task_id") if isinstance(data, dict) else getattr(data, "task_id", "")
    return bool(task_id)


def admit(data: Any, rules: TaskRules = NO_RULES) -> AdmittedTask:
    """Return the task in ``data``, with an id, if it passes all checks; see ``examine``.

    Raises:
        TaskError: With what is wrong and what is right.
    """
    if isinstance(data, AdmittedTask):
        return data
    admitted, problems = examine(data, rules)
    if admitted is None or problems:
        raise TaskError("; ".join(problems))
    return admitted

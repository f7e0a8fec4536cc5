"""Admission: what a task must pass before it is sent, checked once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.records import Offer
from agentpipe.config.task_rules import NO_RULES
from agentpipe.core.task import Task, checked, encode_stamped, encode_with
from agentpipe.errors import TaskError
from agentpipe.evaluation.checks import evaluator_problems

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.config.task_rules import TaskRules

# Of a Task that agentpipe made, such as the replay of a dead letter.
_OURS = frozenset({"answered", "spent_before", "dramatiq"})


@dataclass(frozen=True, slots=True)
class AdmittedTask:
    """A task that passed all checks; ``examine`` and ``admit`` make them.

    What a run or a group adds is kept beside the task, and written into its payload once, when it
    is offered: each of its samples shares it.

    Attributes:
        fields: What its sender gave, and an id, unless a run's plan is to give it one.
        encoded: The same as the store keeps it.
        named: Whether its sender gave the id.
        line: Where it stands in its file, from 1; 0 if it is in none.
        added: Fields that it has got since.
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
        """Its id; empty where a run's plan is to give it one."""
        return str(self.added.get("task_id") or self.fields.get("task_id", ""))

    def with_fields(self, **fields: Any) -> AdmittedTask:
        """The same task with fields that are known to be valid; an id is its sender's."""
        added = {**self.added, **fields} if self.added else fields
        named = self.named or "task_id" in fields
        return AdmittedTask(self.fields, self.encoded, named, self.line, added)

    def stamped(self, config_hash: str) -> bytes:
        """The payload with its sender's fingerprint.

        Raises:
            TaskError: With what was added it is larger than a task may be.
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
    """The task in ``data``, and everything that keeps it from being sent.

    ``data`` is what ``Task.load`` takes; ``rules`` are those of the collection that it is for. The
    task is None only where no Task could be made.
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
    """An object comes from outside: it says neither what was answered nor what follows its task."""
    if not isinstance(data, dict) or _OURS.isdisjoint(data):
        return []
    given = [name for name in data if name in _OURS and data[name]]
    return [f"{name}: only agentpipe sets it: remove the key" for name in given]


def _evaluator_problems(data: Any, rules: TaskRules) -> list[str]:
    """Those of a malformed task, as far as it has evaluators."""
    given = data.get("evaluators") if isinstance(data, dict) else None
    sound = isinstance(given, list) and all(isinstance(each, dict) for each in given)
    return evaluator_problems(given, rules.functions) if sound and given else []


def _has_id(data: Any) -> bool:
    task_id = data.get("task_id") if isinstance(data, dict) else getattr(data, "task_id", "")
    return bool(task_id)


def admit(data: Any, rules: TaskRules = NO_RULES) -> AdmittedTask:
    """The task in ``data``, with an id, asking for no more than is offered; see ``examine``.

    Raises:
        TaskError: Saying what is wrong and what is right.
    """
    if isinstance(data, AdmittedTask):
        return data
    admitted, problems = examine(data, rules)
    if admitted is None or problems:
        raise TaskError("; ".join(problems))
    return admitted

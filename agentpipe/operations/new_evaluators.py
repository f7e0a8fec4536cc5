"""NewEvaluators: the evaluators in a file, for judging stored answers again."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentpipe.config.yaml_source import load_documents
from agentpipe.errors import ConfigError, Problem
from agentpipe.evaluation.checks import evaluator_problems
from agentpipe.operations.read_tasks import read_tasks
from agentpipe.sending.run_tasks import key_of
from agentpipe.sending.task_files import is_document, read_document

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path
    from typing import BinaryIO

    from agentpipe.config.task_rules import TaskRules

Evaluators = list[dict[str, Any]]
_KEY = "evaluators"


@dataclass(frozen=True, slots=True)
class NewEvaluators:
    """Evaluators for all tasks, or for each task.

    Attributes:
        by_task: Evaluators by task id without the run's prefix, of the tasks that have some.
    """

    for_all: Evaluators | None = None
    by_task: Mapping[str, Evaluators] = field(default_factory=dict)

    def of(self, task: str) -> Evaluators | None:
        """The evaluators for one task; None if the file has none."""
        return self.by_task.get(task) if self.for_all is None else self.for_all


def read_evaluators(path: Path, rules: TaskRules, stdin: BinaryIO) -> NewEvaluators:
    """Read a list of evaluators, an object with ``evaluators``, or a file of tasks.

    Raises:
        ConfigError: The file is invalid.
    """
    found = _list_in(path)
    if found is None:
        tasks = read_tasks(str(path), stdin, rules)
        by_task = {key_of(it): it.task.evaluators for it in tasks if it.task.evaluators}
        if not by_task:  # Otherwise only results without an answer would make the new run.
            raise ConfigError(Problem("no evaluators in it: add some", str(path)))
        return NewEvaluators(by_task=by_task)
    if problems := evaluator_problems(found, rules.functions):
        raise ConfigError([Problem(each, str(path)) for each in problems])
    return NewEvaluators(found)


def _list_in(path: Path) -> Evaluators | None:
    """The evaluators for all tasks; None if this is a file of tasks."""
    data = _document(path)
    if isinstance(data, dict) and data.keys() == {_KEY}:
        data = data[_KEY]
    elif not (isinstance(data, list) and data and _is_evaluator(data[0])):
        return None
    if not isinstance(data, list) or not data or not all(map(_is_evaluator, data)):
        raise ConfigError(Problem("expected a list of evaluators, each with func", str(path)))
    return data


def _document(path: Path) -> Any:
    if path.suffix.lower() in {".yaml", ".yml"}:
        documents = load_documents(path)
        return documents[0].data if len(documents) == 1 else None
    return read_document(path).data if is_document(path) else None


def _is_evaluator(value: Any) -> bool:
    return isinstance(value, dict) and "func" in value

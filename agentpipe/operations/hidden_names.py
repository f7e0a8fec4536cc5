"""Hidden names: variables in the templates of tasks that contexts do not expose to tasks.

A worker refuses a task whose evaluators use a hidden name. A question that uses one is asked with
its template unreplaced.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.config.contexts import resolve_contexts
from agentpipe.core.context import Context, hidden_problem
from agentpipe.core.credential_names import reads_like_secret
from agentpipe.core.template import names_in
from agentpipe.errors import ConfigError
from agentpipe.sending.checked_tasks import entries_in

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence
    from pathlib import Path

    from agentpipe.config.collection import Collection
    from agentpipe.errors import Problem
    from agentpipe.sending.task_files import FileEntry

MAX_LISTED = 100
_RENDERED = ("value", "op_args")


@dataclass(frozen=True, slots=True)
class HiddenNames:
    """The hidden names in the tasks of a file.

    Attributes:
        problems: For tasks that no agent runs, in any context.
        notes: For tasks that run, at least in some contexts, or that may run.
    """

    problems: tuple[Problem, ...] = ()
    notes: tuple[Problem, ...] = ()


@dataclass(frozen=True, slots=True)
class _Template:
    """A name in a task, and its place as shown in messages."""

    place: str
    name: str
    refused: bool


def contexts_of(
    collections: Iterable[Collection], environ: Mapping[str, str] | None = None
) -> list[Context]:
    """The collections' contexts; unresolved without ``environ``, or if one cannot be resolved."""
    found: list[Context] = []
    for each in collections:
        try:
            resolved = None if environ is None else resolve_contexts([each], environ)
        except ConfigError:
            resolved = None
        found += _as_written(each) if resolved is None else resolved[each.name]
    return found


def _as_written(collection: Collection) -> list[Context]:
    return [
        Context(spec.env, {}, None if spec.public is None else frozenset(spec.public))
        for spec in collection.contexts
    ] or [Context()]


def hidden_names(
    path: Path, contexts: Sequence[Context] = (), *, asks_templates: bool = True
) -> HiddenNames:
    """The hidden names in the tasks of a file; entries that are not tasks are skipped.

    Args:
        path: A task file.
        contexts: The contexts of the agents that get the tasks; if empty, the names alone decide.
        asks_templates: Whether these agents replace templates in questions.

    Raises:
        ConfigError: The file cannot be read.
    """
    if contexts and not any(each.hidden for each in contexts):
        return HiddenNames()
    problems: list[Problem] = []
    notes: list[Problem] = []
    for entry in entries_in(path):
        for each in _templates(entry):
            hiding = sum(each.name in context.hidden for context in contexts)
            if not _is_hidden(each, hiding, contexts) or not (each.refused or asks_templates):
                continue
            is_certain = each.refused and contexts and hiding == len(contexts)
            said = _problem(entry, each, hiding, len(contexts))
            (problems if is_certain else notes).append(said)
        if len(problems) + len(notes) >= MAX_LISTED:
            break
    return HiddenNames(tuple(problems), tuple(notes))


def _is_hidden(template: _Template, hiding: int, contexts: Sequence[Context]) -> bool:
    return bool(hiding) if contexts else reads_like_secret(template.name)


def _problem(entry: FileEntry, template: _Template, hiding: int, contexts: int) -> Problem:
    said = f"{template.place}: {hidden_problem(template.name)}"
    if not template.refused:
        said += "; without that, the question is asked as it stands"
    elif 0 < hiding < contexts:
        said += f"; {hiding} of {contexts} contexts hide it, and their agents do not run the task"
    else:
        said += "; without that, no agent runs the task"
    return entry.problem(said)


def _templates(entry: FileEntry) -> Iterator[_Template]:
    try:
        yield from _templates_in(entry.data)
    except RecursionError:  # Validation of the task reports this.
        return


def _templates_in(data: Any) -> Iterator[_Template]:
    """All names in a task that may be hidden, each once per place."""
    task = {"question": data} if isinstance(data, str) else data
    if not isinstance(task, dict):
        return
    for place, value, refused in _places(task):
        for name in dict.fromkeys(names_in(value)):
            yield _Template(place, name, refused)


def _places(task: dict[str, Any]) -> Iterator[tuple[str, Any, bool]]:
    if isinstance(task.get("question"), str):
        yield "question", task["question"], False
    evaluators = task.get("evaluators")
    for index, each in enumerate(evaluators if isinstance(evaluators, list) else ()):
        for key in _RENDERED if isinstance(each, dict) else ():
            yield f"evaluators[{index}]: {key}", each.get(key), True

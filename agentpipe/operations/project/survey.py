"""Says what files are, and how they run: natively, by MCP-Universe's own code, or not at all.

Sends nothing and connects to nothing. The files can be untrusted: none of their Python code runs
unless the caller allows it, and no link is followed out of their folder. MCP-Universe need not be
installed.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.collection import load
from agentpipe.config.documents import problem_at
from agentpipe.config.paths import shown_path
from agentpipe.config.schema import BENCHMARK, NO_KIND
from agentpipe.config.yaml_source import load_documents
from agentpipe.errors import ConfigError, Problem
from agentpipe.operations.hidden_names import contexts_of, hidden_names
from agentpipe.operations.project.folder_files import JSON, files_below, refuse_what_is_no_file
from agentpipe.operations.project.readiness import (
    PEER,
    Terms,
    judge_agent,
    judge_benchmarks,
    judge_collections,
    judge_lines,
    judge_tasks,
    opened,
)
from agentpipe.operations.project.shapes import (
    describe,
    is_component,
    is_task,
    lacks_kind,
    nearest_kind,
)
from agentpipe.sending.task_files import entries_of, is_document, read_document, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from agentpipe.core.context import Context
    from agentpipe.sending.task_files import FileEntry

    _Judge = Callable[[Terms], Iterable[str]]

NATIVE, NO, OTHER = "native", "no", "other"
RUNS = (NATIVE, PEER, NO, OTHER)
MAX_REASONS = 100

_FIRST = 100


@dataclass(frozen=True, slots=True)
class Surveyed:
    """The findings about one file.

    Attributes:
        kind: ``task``, ``tasks``, ``agent``, ``benchmark``, ``collection`` or ``other``.
        runs: One of ``RUNS``.
        notes: Why it is not native, or what it seems to be.
        problems: Why it does not run at all.
        hidden: Names in its tasks that contexts hide from them by default.
    """

    file: str
    kind: str
    runs: str
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    hidden: tuple[Problem, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """The problems with their locations, or else the notes."""
        return [str(problem) for problem in self.problems] or list(self.notes)


def survey(
    paths: Iterable[Path], environ: Mapping[str, str], *, run_code: bool = False
) -> Iterator[Surveyed]:
    """Survey each file of ``paths`` and below their folders once."""
    seen: set[str] = set()
    contexts = _contexts_of(paths := list(paths))
    for path in paths:
        terms = Terms(environ, path if path.is_dir() else path.parent, run_code)
        for found in files_below(path):
            file = found if isinstance(found, Path) else Path(found.file)
            place = os.path.realpath(file) if isinstance(found, Path) else str(file)
            if place not in seen:
                seen.add(place)
                looked = _with_hidden(_looked(found, terms), contexts)
                yield _with_kinds(looked) if found is path else looked


def look(path: Path, environ: Mapping[str, str], *, run_code: bool = False) -> Surveyed:
    """Survey one file."""
    return _looked(path, Terms(environ, path.parent, run_code))


def _looked(path: Path | Problem, terms: Terms) -> Surveyed:
    if isinstance(path, Problem):
        return _refused(Path(path.file), OTHER, [path])
    try:
        kind, judge = _read(path)
        if kind == OTHER:
            return Surveyed(str(path), kind, OTHER, tuple(judge(terms)))
    except ConfigError as error:
        return _refused(path, OTHER, error.problems)
    try:
        needs = tuple(dict.fromkeys(judge(terms)))
    except ConfigError as error:
        return _refused(path, kind, error.problems)
    return Surveyed(str(path), kind, PEER if needs else NATIVE, needs)


def _contexts_of(paths: Iterable[Path]) -> list[Context]:
    """The contexts of the named collections, unresolved: no variable is looked up."""
    found: list[Context] = []
    for path in paths:
        with suppress(ConfigError):
            if not path.is_dir() and _read(path)[0] == "collection":
                found += contexts_of(load(path))
    return found


def _with_hidden(looked: Surveyed, contexts: Sequence[Context]) -> Surveyed:
    """Add the hidden names in a file's tasks, if it has no problems so far."""
    if looked.kind not in ("task", "tasks") or looked.problems:
        return looked
    found = hidden_names(Path(looked.file), contexts)
    if found.problems:
        return _refused(Path(looked.file), looked.kind, found.problems)
    return replace(looked, hidden=found.notes)


def _with_kinds(looked: Surveyed) -> Surveyed:
    """Require a kind in a YAML file that was named rather than found in a folder."""
    path = Path(looked.file)
    if looked.runs != OTHER or path.suffix.lower() in JSON:
        return looked
    unsaid = [each for each in load_documents(path) if lacks_kind(each.data)]
    problems = [problem_at(each, ("kind",), NO_KIND) for each in unsaid]
    return _refused(path, OTHER, problems) if problems else looked


def is_for_collection(paths: Sequence[Path]) -> bool:
    """Whether the only path is a collection file, or seems intended as one."""
    if len(paths) > 1 or any(path.is_dir() for path in paths):
        return False
    try:
        return all(_read(path)[0] == "collection" for path in paths)
    except ConfigError:
        return all(path.suffix.lower() not in JSON for path in paths)


def _refused(path: Path, kind: str, problems: Iterable[Problem]) -> Surveyed:
    """A file that does not run, with at most ``MAX_REASONS`` of its problems."""
    all_of_them = tuple(dict.fromkeys(problems))
    kept = all_of_them[:MAX_REASONS]
    if more := len(all_of_them) - len(kept):
        kept = (*kept, Problem(f"and {more:,} more", str(path)))
    return Surveyed(str(path), kind, NO, problems=kept)


# Each reader returns the kind of a file and a function. The function returns the reasons why the
# file does not run natively; for ``other`` files it returns a description.


def _read(path: Path) -> tuple[str, _Judge]:
    refuse_what_is_no_file(path)
    if path.suffix.lower() not in JSON:
        return _read_yaml(path)
    if not is_document(path):
        return _read_lines(path)
    whole = read_document(path)
    if is_component(whole.data):
        return _read_yaml(path)
    return _read_json(whole)


def _read_yaml(path: Path) -> tuple[str, _Judge]:
    documents = load_documents(path)
    said = {nearest_kind(document) for document in documents}
    if BENCHMARK in said:
        return BENCHMARK, lambda terms: judge_benchmarks(path, documents, terms)
    if "collection" in said:
        return "collection", lambda terms: judge_collections(path, terms)
    if said - {""}:
        return "agent", lambda terms: judge_agent(load_agent_config(path), terms)
    return OTHER, lambda _: [describe(documents[0].data, "YAML")]


def _read_json(whole: FileEntry) -> tuple[str, _Judge]:
    entries = entries_of(whole)
    if not any(is_task(entry.data) for entry in entries[:_FIRST]):
        return OTHER, lambda _: [describe(whole.data, "JSON")]
    kind = "tasks" if isinstance(whole.data, list) else "task"
    return kind, lambda _: judge_tasks(entries)


def _read_lines(path: Path) -> tuple[str, _Judge]:
    """Decide by its first lines; an invalid line counts as a task among tasks."""
    with opened(path) as stream:
        first = list(islice(read_lines(shown_path(path), stream), _FIRST))
    if any(is_task(entry.data) or isinstance(entry.data, str) for entry in first):
        return "tasks", lambda _: judge_lines(path)
    if not first:
        return OTHER, lambda _: ["an empty file"]
    if first[0].error:
        raise ConfigError(first[0].problem(first[0].error))
    return OTHER, lambda _: [describe(first[0].data, "JSON a line")]

"""Benchmarks: documents that name an agent and the task files to measure it with.

They are in the file of their agent, as in MCP-Universe, or in their own file.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.documents import problem_at, read_documents
from agentpipe.config.paths import find_file, folders_for_tasks, shown_path
from agentpipe.config.schema import BENCHMARK, BenchmarkDocument
from agentpipe.config.task_rules import NO_RULES
from agentpipe.config.yaml_source import kind_in
from agentpipe.errors import ConfigError, Problem
from agentpipe.sending.task_files import TaskReader, load_tasks

if TYPE_CHECKING:
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.config.yaml_source import Document
    from agentpipe.sending.admission import AdmittedTask


@dataclass(frozen=True, slots=True)
class TaskFile:
    """A task file that a benchmark names.

    Attributes:
        written: Its path as written there.
        path: Its location.
        line: The line that names it.
    """

    written: str
    path: Path
    line: int


@dataclass(frozen=True, slots=True)
class Benchmark:
    """One benchmark of a file.

    Attributes:
        agent: The name of the agent's document; empty if none is named.
        agent_line: The line that names it.
    """

    description: str
    agent: str
    agent_line: int
    tasks: tuple[TaskFile, ...]
    file: Path


def read_benchmarks(path: Path) -> tuple[list[Benchmark], list[Problem]]:
    """Return the valid benchmarks of a file, and every problem; for ``check``.

    The task files that they name are found but not read.

    Raises:
        ConfigError: The file cannot be read, or has no benchmark.
    """
    components, problems = read_documents(path, BenchmarkDocument(), _is_benchmark)
    if not components:
        raise ConfigError(
            Problem("no benchmark: add a document of kind benchmark", shown_path(path), 1)
        )
    return [_benchmark(document, spec, problems) for document, spec in components], problems


def benchmark_tasks(path: Path, rules: TaskRules = NO_RULES) -> list[AdmittedTask]:
    """The tasks of all benchmarks of a file, with benchmark and file in their metadata.

    Raises:
        ConfigError: With every problem of the benchmarks, then of every task file.
    """
    benchmarks, problems = read_benchmarks(path)
    problems.sort(key=lambda problem: problem.line)
    tasks: list[AdmittedTask] = []
    reader = TaskReader(rules)
    for benchmark, file in ((each, file) for each in benchmarks for file in each.tasks):
        try:
            tasks += [_marked(task, benchmark, file) for task in load_tasks(file.path, reader)]
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return tasks


def _is_benchmark(document: Document) -> bool:
    return kind_in(document) == BENCHMARK


def _marked(task: AdmittedTask, benchmark: Benchmark, file: TaskFile) -> AdmittedTask:
    marks = {
        "benchmark": benchmark.description or benchmark.file.name,
        "task_file": file.written,
    }
    return task.with_fields(metadata=marks | task.task.metadata)


def _benchmark(document: Document, spec: dict[str, Any], problems: list[Problem]) -> Benchmark:
    file = Path(document.file)
    folders = folders_for_tasks(file)
    found = []
    for index, written in _written_tasks(document):
        place = ("spec", "tasks", index)
        try:
            path = find_file(written, folders)
        except FileNotFoundError as error:
            problems.append(problem_at(document, place, str(error)))
        else:
            found.append(TaskFile(written, path, document.line_of(place)))
    agent_line = document.line_of(("spec", "agent"))
    description, agent = spec.get("description", ""), spec.get("agent", "")
    return Benchmark(description, agent, agent_line, tuple(found), file)


def _written_tasks(document: Document) -> list[tuple[int, str]]:
    """The paths in the file; the schema reports invalid entries and drops their positions."""
    spec = document.data.get("spec")
    tasks = spec.get("tasks") if isinstance(spec, dict) else None
    written = enumerate(tasks if isinstance(tasks, list) else ())
    return [(at, text) for at, text in written if isinstance(text, str) and text.strip()]

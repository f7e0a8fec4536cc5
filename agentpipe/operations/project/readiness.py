"""Whether tasks, agents, benchmarks and collections run, and which need MCP-Universe's own code.

A ``judge`` function returns the reasons why MCP-Universe's code is needed, and none if agentpipe
runs the file itself. If the file does not run, it raises ``ConfigError`` with all problems.
"""

from __future__ import annotations

import re
import sys
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config import mcp_universe
from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.collection import load
from agentpipe.config.contexts import resolve_contexts
from agentpipe.config.documents import raise_problems
from agentpipe.config.function_scope import FunctionScope, flaw_of
from agentpipe.config.imports import explain
from agentpipe.config.paths import shown_path, why_unreadable
from agentpipe.config.schema import BENCHMARK
from agentpipe.config.yaml_source import kind_in
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.engines.base import engine_class, open_engine
from agentpipe.errors import ConfigError, Problem
from agentpipe.evaluation.checks import evaluator_problems
from agentpipe.evaluation.functions import is_reference
from agentpipe.operations.project.folder_files import refuse_outside, refuse_what_is_no_file
from agentpipe.sending.benchmarks import read_benchmarks
from agentpipe.sending.task_files import TaskReader, entries_of, read_document, read_lines

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping
    from typing import BinaryIO

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.config.collection import Collection
    from agentpipe.config.yaml_source import Document
    from agentpipe.core.task import Task
    from agentpipe.sending.benchmarks import Benchmark
    from agentpipe.sending.task_files import FileEntry

PEER = "mcpuniverse"
MAX_PROBLEMS = 1000

_FILE_REFERENCE = re.compile(r"\$\{file:([^}$]*)\}")
_SOUND = {"func": "raw"}


@dataclass(frozen=True, slots=True)
class Terms:
    """How files are examined.

    Attributes:
        environ: Where contexts find their ``${VARIABLES}``.
        root: The folder that no link may leave.
        run_code: Import the Python modules that agents name, which runs them.
    """

    environ: Mapping[str, str]
    root: Path
    run_code: bool = False


def judge_tasks(entries: Iterable[FileEntry]) -> list[str]:
    """Judge tasks from any file; stops reading after ``MAX_PROBLEMS``."""
    needs: dict[str, None] = {}
    problems: list[Problem] = []
    reader = TaskReader()
    for entry in entries:
        task, found = reader.of_line(entry)
        problems += found
        if task is not None:
            problems += [entry.problem(fault) for fault in _faults(entry, task.task)]
            needs |= dict.fromkeys(mcp_universe.task_needs(task.task))
        if len(problems) > MAX_PROBLEMS:
            problems.append(Problem("too many problems: the rest was not read", entry.file))
            break
    if problems:
        raise ConfigError(problems)
    return list(needs)


def _faults(entry: FileEntry, task: Task) -> list[str]:
    faults = mcp_universe.task_faults(task) + _function_faults(task, Path(entry.file).absolute())
    if not task.question and isinstance(entry.data, dict) and "instruction" in entry.data:
        # MCP-Universe's training files have it; its own runner would ask nothing.
        faults.append("instruction: not a field of a task, ignored: call it question")
    return faults


def _function_faults(task: Task, file: Path) -> list[str]:
    """Faults of functions found near the file; a collection may provide others from elsewhere."""
    scope = FunctionScope(file.parent)
    near = [_SOUND if _is_elsewhere(each.get("func"), scope) else each for each in task.evaluators]
    return evaluator_problems(near, scope)


def _is_elsewhere(func: Any, scope: FunctionScope) -> bool:
    """Whether the function is not in the files here, so that only a collection can provide it."""
    named = isinstance(func, str) and is_reference(func) and not flaw_of(func)
    return named and not scope.has(func)


def judge_lines(path: Path) -> list[str]:
    """Judge the tasks of a file with one JSON object per line."""
    with opened(path) as stream:
        return judge_tasks(read_lines(shown_path(path), stream))


def judge_agent(config: AgentConfig, terms: Terms) -> list[str]:
    """Judge an agent: our engines check their configs; MCP-Universe's engine is not started."""
    engine = mcp_universe.engine_for(config)
    if found := mcp_universe.problems(config):
        raise ConfigError(found)
    if engine == PEER:
        return mcp_universe.why_not_native(config) or [f"type {PEER}"]
    _try_engine(config, terms)
    return []


def _try_engine(config: AgentConfig, terms: Terms) -> None:
    kind = engine_class(config)
    try:
        with redirect_stdout(sys.stderr):  # The user's module may print on import.
            if terms.run_code or not getattr(kind, "runs_code", True):
                open_engine(config)
            elif hasattr(kind, "check_unrun"):
                kind.check_unrun(config)
    except ConfigError:
        raise
    except Exception as error:
        message = f"its engine fails: {explain(error)}"
        raise ConfigError(config.problem(message)) from error


def judge_collections(path: Path, terms: Terms) -> list[str]:
    """Judge all collections of a file, with their agents and contexts."""
    collections = load(path)
    files = dict.fromkeys(collection.config_file for collection in collections)
    judges = [partial(_judge_agent_file, file, terms) for file in files]
    return _all_of([lambda: _judge_contexts(collections, terms.environ), *judges])


def _judge_agent_file(path: Path, terms: Terms) -> list[str]:
    refuse_outside(path, terms.root)
    refuse_what_is_no_file(path)
    return judge_agent(load_agent_config(path), terms)


def _judge_contexts(collections: Iterable[Collection], environ: Mapping[str, str]) -> list[str]:
    values = (value for each in collections for it in each.contexts for value in it.env.values())
    for value in values:
        for match in _FILE_REFERENCE.finditer(value):
            refuse_what_is_no_file(Path(match[1]))
    resolve_contexts(collections, environ)
    return []


def judge_benchmarks(path: Path, documents: Iterable[Document], terms: Terms) -> list[str]:
    """Judge benchmarks; a missing task file does not hide other problems."""
    agents = [document for document in documents if kind_in(document) != BENCHMARK]
    benchmarks, problems = read_benchmarks(path)
    files = dict.fromkeys(file.path for each in benchmarks for file in each.tasks)
    judges = [
        partial(_raise, problems),
        *(partial(_judge_task_file, file, terms) for file in files),
    ]
    if agents:
        judges += [partial(_judge_benchmarks_agent, each, agents, terms) for each in benchmarks]
    return _all_of(judges)


def _raise(problems: list[Problem]) -> list[str]:
    raise_problems(problems)
    return []


def _judge_task_file(path: Path, terms: Terms) -> list[str]:
    refuse_outside(path, terms.root)
    refuse_what_is_no_file(path)
    return judge_tasks(entries_of(read_document(path)))


def _judge_benchmarks_agent(
    benchmark: Benchmark, agents: Iterable[Document], terms: Terms
) -> list[str]:
    config = load_agent_config(benchmark.file, benchmark.agent)
    if benchmark.agent and config.name != benchmark.agent:
        runnable = [document for document in agents if kind_in(document) != "llm"]
        names = [str(document.data["spec"]["name"]) for document in runnable]
        message = f"{benchmark.agent!r:.60} is not in this file"
        hint = did_you_mean(benchmark.agent, names)
        place = (str(benchmark.file), benchmark.agent_line)
        raise ConfigError(Problem(f"spec.agent: {message}: {hint}", *place))
    return judge_agent(config, terms)


def _all_of(judges: Iterable[Callable[[], list[str]]]) -> list[str]:
    """The needs from all judges, or the problems from all."""
    needs: list[str] = []
    problems: list[Problem] = []
    for judge in judges:
        try:
            needs += judge()
        except ConfigError as error:
            problems += error.problems
    if problems:
        raise ConfigError(problems)
    return needs


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """Open the file for reading; raises ``ConfigError`` if it cannot be opened or read."""
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        raise ConfigError(Problem(why_unreadable(error), str(path))) from error

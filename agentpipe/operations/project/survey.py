"""Says what files are, and how they run: natively, by MCP-Universe's own code, or not at all.

Sends nothing and connects to nothing. The files may be a stranger's: no Python of theirs is run
unless the caller says so, and no link is followed out of their folder. MCP-Universe need not be
installed.
"""

from __future__ import annotations

import os
import re
import sys
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config import mcp_universe
from agentpipe.config.agent_config import load_agent_config
from agentpipe.config.collection import load
from agentpipe.config.contexts import resolve_contexts
from agentpipe.config.documents import problem_at, raise_problems
from agentpipe.config.function_scope import FunctionScope, flaw_of
from agentpipe.config.imports import explain
from agentpipe.config.paths import shown_path
from agentpipe.config.schema import AGENT_KINDS, BENCHMARK, NO_KIND
from agentpipe.config.yaml_source import kind_in, kind_of, load_documents
from agentpipe.core.did_you_mean import MISSPELT, did_you_mean, nearest
from agentpipe.engines.base import engine_class, open_engine
from agentpipe.errors import ConfigError, Problem
from agentpipe.evaluation import evaluators
from agentpipe.evaluation.functions import is_reference
from agentpipe.operations.hidden_names import contexts_of, hidden_names
from agentpipe.operations.project.folder_files import (
    JSON,
    files_below,
    refuse_outside,
    refuse_what_is_no_file,
)
from agentpipe.sending.benchmarks import read_benchmarks
from agentpipe.sending.task_files import (
    TaskReader,
    entries_of,
    is_document,
    read_document,
    read_lines,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
    from typing import BinaryIO

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.config.collection import Collection
    from agentpipe.config.yaml_source import Document
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.sending.benchmarks import Benchmark
    from agentpipe.sending.task_files import Entry

    _Judge = Callable[["Terms"], Iterable[str]]

NATIVE, PEER, NO, OTHER = "native", "mcpuniverse", "no", "other"
RUNS = (NATIVE, PEER, NO, OTHER)
MAX_REASONS = 100
MAX_PROBLEMS = 1000

_KINDS = ("collection", BENCHMARK, *AGENT_KINDS)
_FILE_REFERENCE = re.compile(r"\$\{file:([^}$]*)\}")
_FEW_KEYS, _MANY_KEYS, _FIRST = 5, 100, 100
_TASK_KEYS = frozenset(
    (
        "question",
        "output_format",
        "mcp_servers",
        "use_specified_server",
        "evaluators",
        "prepares",
        "cleanups",
    )
)
_RESULT_KEYS = frozenset(("evaluation_results", "outcome"))
_SOUND = {"func": "raw"}
_TRANSPORTS = frozenset(("stdio", "sse", "http_url", "streamable_http", "command"))


@dataclass(frozen=True, slots=True)
class Terms:
    """How files are looked at.

    Attributes:
        environ: Where contexts find their ``${VARIABLES}``.
        root: The folder that no link may leave.
        run_code: Import the Python that agents name, which runs it.
    """

    environ: Mapping[str, str]
    root: Path
    run_code: bool = False


@dataclass(frozen=True, slots=True)
class Surveyed:
    """One file.

    Attributes:
        kind: ``task``, ``tasks``, ``agent``, ``benchmark``, ``collection`` or ``other``.
        runs: One of ``RUNS``.
        notes: Why it is not native, or what it seems to be.
        problems: Why it does not run at all.
        hidden: What its tasks want that contexts hide from them, unless these say otherwise.
    """

    file: str
    kind: str
    runs: str
    notes: tuple[str, ...] = ()
    problems: tuple[Problem, ...] = ()
    hidden: tuple[Problem, ...] = ()

    @property
    def reasons(self) -> list[str]:
        """The problems with their places, or the notes."""
        return [str(problem) for problem in self.problems] or list(self.notes)


def survey(
    paths: Iterable[Path], environ: Mapping[str, str], *, run_code: bool = False
) -> Iterator[Surveyed]:
    """Each file of ``paths`` and below their folders, once."""
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
    """One file."""
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
    """Those of the collections that are named, as they are written: no value is looked up."""
    found: list[Context] = []
    for path in paths:
        with suppress(ConfigError):
            if not path.is_dir() and _read(path)[0] == "collection":
                found += contexts_of(load(path))
    return found


def _with_hidden(looked: Surveyed, contexts: Sequence[Context]) -> Surveyed:
    """With what the tasks of a file want, if it is sound so far."""
    if looked.kind not in ("task", "tasks") or looked.problems:
        return looked
    found = hidden_names(Path(looked.file), contexts)
    if found.problems:
        return _refused(Path(looked.file), looked.kind, found.problems)
    return replace(looked, hidden=found.notes)


def _with_kinds(looked: Surveyed) -> Surveyed:
    """A YAML file that was named, not only found in a folder, must say what it is."""
    path = Path(looked.file)
    if looked.runs != OTHER or path.suffix.lower() in JSON:
        return looked
    unsaid = [each for each in load_documents(path) if _lacks_kind(each.data)]
    problems = [problem_at(each, ("kind",), NO_KIND) for each in unsaid]
    return _refused(path, OTHER, problems) if problems else looked


def _lacks_kind(data: Any) -> bool:
    if not isinstance(data, dict):
        return True
    return not (data.keys() & {"kind", "apiVersion"} or _servers_in(data) or _is_task(data))


def is_for_collection(paths: Sequence[Path]) -> bool:
    """Whether the only path is a collection file, or seems to be meant for one."""
    if len(paths) > 1 or any(path.is_dir() for path in paths):
        return False
    try:
        return all(_read(path)[0] == "collection" for path in paths)
    except ConfigError:
        return all(path.suffix.lower() not in JSON for path in paths)


def _refused(path: Path, kind: str, problems: Iterable[Problem]) -> Surveyed:
    """With the first problems only."""
    all_of_them = tuple(dict.fromkeys(problems))
    kept = all_of_them[:MAX_REASONS]
    if more := len(all_of_them) - len(kept):
        kept = (*kept, Problem(f"and {more:,} more", str(path)))
    return Surveyed(str(path), kind, NO, problems=kept)


# The kind of a file, and a function that gives the reasons why it does not run natively; for
# ``other`` files it describes them.


def _read(path: Path) -> tuple[str, _Judge]:
    refuse_what_is_no_file(path)
    if path.suffix.lower() not in JSON:
        return _read_yaml(path)
    if not is_document(path):
        return _read_lines(path)
    whole = read_document(path)
    if _is_component(whole.data):
        return _read_yaml(path)
    return _read_json(whole)


def _read_yaml(path: Path) -> tuple[str, _Judge]:
    documents = load_documents(path)
    said = {_nearest_kind(document) for document in documents}
    if BENCHMARK in said:
        return BENCHMARK, lambda terms: _judge_benchmarks(path, documents, terms)
    if "collection" in said:
        return "collection", lambda terms: _judge_collections(path, terms)
    if said - {""}:
        return "agent", lambda terms: _judge_agent(load_agent_config(path), terms)
    return OTHER, lambda _: [_describe(documents[0].data, "YAML")]


def _read_json(whole: Entry) -> tuple[str, _Judge]:
    entries = entries_of(whole)
    if not any(_is_task(entry.data) for entry in entries[:_FIRST]):
        return OTHER, lambda _: [_describe(whole.data, "JSON")]
    kind = "tasks" if isinstance(whole.data, list) else "task"
    return kind, lambda _: _judge_tasks(entries)


def _read_lines(path: Path) -> tuple[str, _Judge]:
    """By its first lines; an invalid line counts as a task among tasks."""
    with _opened(path) as stream:
        first = list(islice(read_lines(shown_path(path), stream), _FIRST))
    if any(_is_task(entry.data) or isinstance(entry.data, str) for entry in first):
        return "tasks", lambda _: _judge_lines(path)
    if not first:
        return OTHER, lambda _: ["an empty file"]
    if first[0].error:
        raise ConfigError(first[0].problem(first[0].error))
    return OTHER, lambda _: [_describe(first[0].data, "JSON a line")]


def _is_task(data: Any) -> bool:
    if not isinstance(data, dict) or data.keys() & _RESULT_KEYS or _servers_in(data):
        return False
    keys = [key for key in islice(data, _MANY_KEYS) if isinstance(key, str)]
    return any(nearest(key, _TASK_KEYS, MISSPELT) for key in keys)


def _is_component(data: Any) -> bool:
    return isinstance(data, dict) and isinstance(data.get("spec"), dict) and "kind" in data


def _nearest_kind(document: Document) -> str:
    """The kind of a document, also if misspelt; empty for unrelated ones."""
    kind, data = kind_in(document), document.data
    if isinstance(data, dict) and "apiVersion" in data:
        return ""  # Kubernetes has agents, workflows and benchmarks of its own.
    if near := nearest(kind, _KINDS, MISSPELT):
        return near
    spec = data.get("spec") if isinstance(data, dict) and "kind" not in data else None
    if not isinstance(spec, dict) or "name" not in spec:
        return ""
    return "collection" if isinstance(spec.get("config"), str) else "agent"


# How a file runs.


def _judge_tasks(entries: Iterable[Entry]) -> list[str]:
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


def _faults(entry: Entry, task: Task) -> list[str]:
    faults = mcp_universe.task_faults(task) + _function_faults(task, Path(entry.file).absolute())
    if not task.question and isinstance(entry.data, dict) and "instruction" in entry.data:
        # Their training files have it; their own runner would ask nothing.
        faults.append("instruction: not a field of a task, ignored: call it question")
    return faults


def _function_faults(task: Task, file: Path) -> list[str]:
    """Of functions whose module is near; without a collection, others may well be elsewhere."""
    scope = FunctionScope(file.parent)
    near = [_SOUND if _is_elsewhere(each.get("func"), scope) else each for each in task.evaluators]
    return evaluators.check(near, scope)


def _is_elsewhere(func: Any, scope: FunctionScope) -> bool:
    """Whether a collection may offer the function, but the files here do not show it."""
    named = isinstance(func, str) and is_reference(func) and not flaw_of(func)
    return named and not scope.has(func)


def _judge_lines(path: Path) -> list[str]:
    with _opened(path) as stream:
        return _judge_tasks(read_lines(shown_path(path), stream))


def _judge_agent(config: AgentConfig, terms: Terms) -> list[str]:
    """Our engines look at their configs themselves; MCP-Universe's is not started for that."""
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
        with redirect_stdout(sys.stderr):  # The user's module may print when it is imported.
            if terms.run_code or not getattr(kind, "runs_code", True):
                open_engine(config)
            elif hasattr(kind, "check_unrun"):
                kind.check_unrun(config)
    except ConfigError:
        raise
    except Exception as error:
        message = f"its engine fails: {explain(error)}"
        raise ConfigError(config.problem(message)) from error


def _judge_collections(path: Path, terms: Terms) -> list[str]:
    collections = load(path)
    files = dict.fromkeys(collection.config_file for collection in collections)
    judges = [partial(_judge_agent_file, file, terms) for file in files]
    return _all_of([lambda: _judge_contexts(collections, terms.environ), *judges])


def _judge_agent_file(path: Path, terms: Terms) -> list[str]:
    refuse_outside(path, terms.root)
    refuse_what_is_no_file(path)
    return _judge_agent(load_agent_config(path), terms)


def _judge_contexts(collections: Iterable[Collection], environ: Mapping[str, str]) -> list[str]:
    values = (value for each in collections for it in each.contexts for value in it.env.values())
    for value in values:
        for match in _FILE_REFERENCE.finditer(value):
            refuse_what_is_no_file(Path(match[1]))
    resolve_contexts(collections, environ)
    return []


def _judge_benchmarks(path: Path, documents: Iterable[Document], terms: Terms) -> list[str]:
    """A task that is missing hides no other mistake."""
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
    return _judge_tasks(entries_of(read_document(path)))


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
    return _judge_agent(config, terms)


def _all_of(judges: Iterable[Callable[[], list[str]]]) -> list[str]:
    """The needs of all, or the problems of all."""
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
def _opened(path: Path) -> Iterator[BinaryIO]:
    try:
        with path.open("rb") as stream:
            yield stream
    except OSError as error:
        problem = Problem(f"cannot be read ({error.strerror}): check the path", str(path))
        raise ConfigError(problem) from error


# Descriptions of unrelated files.


def _describe(data: Any, language: str) -> str:
    if isinstance(data, dict):
        return _describe_object(data, language)
    if isinstance(data, list):
        return f"{language}: a list of {len(data):,}, not of tasks"
    return f"{language}: {kind_of(data)}"


def _describe_object(data: dict[str, Any], language: str) -> str:
    if servers := _servers_in(data):
        return f"a server list: {len(servers)} of MCP"
    if data.keys() >= _RESULT_KEYS or "evaluation_results" in data:
        return f"{language}: results of tasks"
    if _is_task(data):
        return f"{language}: a task; write tasks as JSON"
    if isinstance(data.get("kind"), str):
        return f"{language}: kind {data['kind']!r:.60}"
    keys = ", ".join(f"{key:.40}" for key in islice(data, _FEW_KEYS))
    more = ", ..." if len(data) > _FEW_KEYS else ""
    return f"{language}: an object with {keys}{more}" if data else f"{language}: an empty object"


def _servers_in(data: dict[str, Any]) -> dict[str, Any]:
    """The servers of MCP-Universe's list or of a client's settings; of anything else none."""
    servers = data["mcpServers"] if isinstance(data.get("mcpServers"), dict) else data
    return servers if all(map(_is_server, servers.values())) else {}


def _is_server(value: Any) -> bool:
    return isinstance(value, dict) and bool(value.keys() & _TRANSPORTS)

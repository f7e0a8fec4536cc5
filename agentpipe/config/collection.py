"""Collections: YAML parsed into frozen objects; every mistake has its file and line.

Nothing is built or run here. The agent configs that a collection names are not read.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentpipe.config.agent_config import search_folders
from agentpipe.config.documents import problem_at, raise_problems, read_documents
from agentpipe.config.fingerprint import fingerprint, spec_digest
from agentpipe.config.function_scope import FunctionScope
from agentpipe.config.paths import find_file, folders_for, is_file, shown_path
from agentpipe.config.policies import is_policy, policy_of, read_policies, tokens_of
from agentpipe.config.schema import CollectionDocument
from agentpipe.config.task_rules import TaskRules
from agentpipe.config.task_servers import TaskServers
from agentpipe.core.budgets import NO_BUDGET, Budget
from agentpipe.core.rollout import MESSAGES, OFF
from agentpipe.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.config.documents import CheckedDocument
    from agentpipe.config.yaml_source import Document, KeyPath
    from agentpipe.core.policy import PolicySpec

MAX_AGENTS = 100_000


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """One agent of a collection.

    Attributes:
        index: Index within its collection, from 0.
        queue: The queue of its tasks.
        context_index: Index of its context; None if the collection has none.
        concurrency_group: Name shared by all agents of a context with a ``concurrency``.
        concurrency_group_limit: That ``concurrency``.
    """

    collection: str
    index: int
    queue: str
    context_index: int | None
    concurrency_group: str | None = None
    concurrency_group_limit: int = 1


@dataclass(frozen=True, slots=True, repr=False)
class ContextSpec:
    """A context as written, with unresolved references; its repr shows no values.

    Attributes:
        line: The first line of the entry.
        concurrency: Running tasks of all its agents, fleet-wide; None for no limit.
        env_lines: The line of each name in ``env``.
        public: Names that tasks can read; None for all except credentials.
    """

    env: Mapping[str, str]
    metadata: Mapping[str, Any]
    file: str
    line: int
    env_lines: Mapping[str, int] = field(default_factory=dict)
    concurrency: int | None = None
    public: tuple[str, ...] | None = None

    def __repr__(self) -> str:
        return f"ContextSpec(env=<{', '.join(self.env)}>, file={self.file!r}, line={self.line})"


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A task file that is sent on a schedule.

    Attributes:
        name: Unique within its collection.
        cron: Minute, hour, day, month, weekday.
        tasks_file: Absolute path; read at each firing.
        file: The collection file, as given.
        line: The first line of the entry.
        timezone: Time zone of ``cron``.
        missed: What to do about firings while no scheduler ran: ``run_once``, ``run_all`` or
            ``skip``.
    """

    name: str
    cron: str
    tasks_file: Path
    file: str
    line: int
    timezone: str = "UTC"
    missed: str = "run_once"


@dataclass(frozen=True, slots=True)
class Collection:
    """Agents that share one config and the same limits.

    Attributes:
        file: The collection file; absolute, as is ``config_file``.
        line: The first line of its document.
        number: Agents per context.
        max_queue_size: Waiting and delayed tasks per agent.
        concurrency: Running tasks per agent, fleet-wide.
        max_retries: Additional runs after infrastructure failures.
        max_crashes: Claims without a settlement before a task is dead.
        breaker: Number of consecutive runs with the same failure that pauses the collection; 0 for
            never.
        max_cooldown_s: Total time that a task can wait in cooldowns.
        budget: Cost limit of its runs; workers stop claiming when it is spent.
        isolation: ``coroutine``, ``thread`` or ``process``.
        engine: Overrides the engine of an MCP-Universe agent config.
        schedule: What ``agentpipe schedule run`` sends.
        strict_config: Workers skip tasks that were sent with another fingerprint.
        task_servers: MCP servers that tasks can choose; None for the agent's default choice.
        evaluators: Modules that evaluators can use functions from, besides those of its folder.
        record_tokens: ``require``, ``try`` or ``off``: whether Results have token ids.
        record_mode: ``messages`` or ``tokens``: how recorded runs query their models.
        on_limit: Reward of a run that reached a limit, if it has evaluators; None for no reward.
        policy: The policy that its agents query instead of their own model; None for none.
        user: User name or uid as whom its agents' programs run; None for the worker's own.
        spec_digest: Digest of the document, for the fingerprint; empty without a document.
        key_lines: The line of each key of its spec.
    """

    name: str
    file: Path
    line: int
    config_file: Path
    number: int = 1
    contexts: tuple[ContextSpec, ...] = ()
    max_queue_size: int = 100
    concurrency: int = 1
    time_limit_s: float = 3600.0
    max_retries: int = 2
    max_crashes: int = 3
    breaker: int = 10
    max_cooldown_s: float = 3600.0
    budget: Budget = NO_BUDGET
    isolation: str = "coroutine"
    engine: str | None = None
    schedule: tuple[ScheduleSpec, ...] = ()
    strict_config: bool = False
    task_servers: tuple[str, ...] | None = None
    evaluators: tuple[str, ...] = ()
    record_tokens: str = OFF
    record_mode: str = MESSAGES
    on_limit: float | None = None
    user: str | None = None
    policy: PolicySpec | None = None
    spec_digest: str = field(default="", compare=False, repr=False)
    key_lines: Mapping[str, int] = field(
        default_factory=lambda: MappingProxyType({}), compare=False, repr=False
    )

    @property
    def fingerprint(self) -> str:
        """Equal for collections that run the same agent in the same way; empty if unknown."""
        return fingerprint(self.spec_digest, self.config_file)

    @property
    def functions(self) -> FunctionScope:
        """The functions that evaluators of its tasks can use."""
        here = is_file(self.config_file)
        return FunctionScope(
            self.file.parent, self.evaluators, search_folders(self.config_file), is_here=here
        )

    @property
    def task_rules(self) -> TaskRules:
        """What its tasks can choose; built at each access."""
        return TaskRules(self.functions, TaskServers(self.task_servers, self.config_file))

    @property
    def agents(self) -> tuple[AgentSpec, ...]:
        """``number`` agents per context, alternating over contexts; built at each access."""
        return tuple(
            self._agent(index) for index in range(self.number * max(1, len(self.contexts)))
        )

    def problem(self, key: str, message: str) -> Problem:
        """Return a problem with a key of the spec, at that key's line."""
        line = self.key_lines.get(key, self.line)
        return Problem(f"{key}: {message}", shown_path(self.file), line)

    def queues_of_context(self, context_index: int | None) -> tuple[str, ...]:
        """Return the queues of all agents that share this context, or of all agents for None."""
        step = max(1, len(self.contexts))
        return tuple(
            f"{self.name}_{index}" for index in range(context_index or 0, self.number * step, step)
        )

    def _agent(self, index: int) -> AgentSpec:
        queue = f"{self.name}_{index}"
        if not self.contexts:
            return AgentSpec(self.name, index, queue, None)
        at = index % len(self.contexts)
        limit = self.contexts[at].concurrency
        if limit is None:
            return AgentSpec(self.name, index, queue, at)
        return AgentSpec(self.name, index, queue, at, f"{self.name}/{at}", limit)


def load(path: Path | str, max_queue_size: int = 100) -> tuple[Collection, ...]:
    """Read a collection file; the agent configs that it names must exist but are not read.

    ``max_queue_size`` is the default for collections that do not set it.

    Raises:
        ConfigError: Lists every problem of the file, in file order.
    """
    collections, problems = read(path, max_queue_size)
    raise_problems(problems)
    return collections


def read(
    path: Path | str, max_queue_size: int = 100
) -> tuple[tuple[Collection, ...], list[Problem]]:
    """Return the collections of a file as far as they are valid, and every problem; for ``check``.

    Invalid values are replaced by defaults, and missing files by ``Path()``. The result is enough
    to check the rest of a collection, but not to run it.

    Raises:
        ConfigError: The file cannot be read as YAML.
    """
    checked, problems = read_documents(
        Path(path), CollectionDocument(), lambda document: not is_policy(document)
    )
    policies, found = read_policies(Path(path))
    problems += found
    folders = folders_for(Path(path))
    problems += _too_many_agents(checked)
    collections = []
    for document, spec in checked:
        config_file = _config_file(document, spec, folders, problems)
        spec["schedule"] = _schedule(document, spec, folders, problems)
        tokens = tokens_of(spec)
        spec["policy"] = policy_of(document, spec, policies, problems)
        defaults = {"name": "", "max_queue_size": max_queue_size}
        collections.append(_collection(document, defaults | spec, config_file, tokens))
    return tuple(collections), problems


# Construction.


def _config_file(
    document: Document, spec: dict[str, Any], folders: tuple[Path, ...], problems: list[Problem]
) -> Path:
    # An invalid value is already reported; a second problem would only confuse.
    written = spec.get("config", "")
    try:
        return find_file(written, folders) if written else Path()
    except FileNotFoundError as error:
        problems.append(problem_at(document, ("spec", "config"), str(error)))
        return Path()


def _collection(
    document: Document, spec: dict[str, Any], config_file: Path, tokens: str
) -> Collection:
    apart = {"config", "context", "record"}
    limits = {name: value for name, value in spec.items() if name not in apart}
    contexts = enumerate(spec.get("context", ()))
    return Collection(
        file=Path(document.file).absolute(),
        line=document.line,
        config_file=config_file,
        contexts=tuple(_context_spec(document, index, context) for index, context in contexts),
        record_tokens=tokens,
        record_mode=spec.get("record", {}).get("mode", MESSAGES),
        spec_digest=spec_digest(document.data),
        key_lines=MappingProxyType({name: document.line_of(("spec", name)) for name in spec}),
        **limits,
    )


def _context_spec(document: Document, index: int, context: dict[str, Any]) -> ContextSpec:
    path = ("spec", "context", index)
    env = context.get("env", {})
    return ContextSpec(
        MappingProxyType(env),
        MappingProxyType(context.get("metadata", {})),
        document.file,
        document.line_of(path),
        MappingProxyType({name: document.line_of((*path, "env", name)) for name in env}),
        context.get("concurrency"),
        context.get("public"),
    )


def _schedule(
    document: Document, spec: dict[str, Any], folders: tuple[Path, ...], problems: list[Problem]
) -> tuple[ScheduleSpec, ...]:
    found: dict[str, ScheduleSpec] = {}
    for index, entry in enumerate(spec.get("schedule", ())):
        path = ("spec", "schedule", index)
        if not entry.get("tasks"):  # Already reported.
            continue
        try:
            each = _schedule_spec(document, path, entry, folders)
        except FileNotFoundError as error:
            problems.append(problem_at(document, (*path, "tasks"), str(error)))
            continue
        if each.name in found:
            place = f"the schedule in line {found[each.name].line}"
            message = f"{place} has the name {each.name!r} already: give one of them another"
            problems.append(problem_at(document, (*path, "name"), message))
        found[each.name] = each
    return tuple(found.values())


def _schedule_spec(
    document: Document, path: KeyPath, entry: dict[str, Any], folders: tuple[Path, ...]
) -> ScheduleSpec:
    """Build a schedule; its name defaults to the stem of its task file."""
    tasks_file = find_file(entry["tasks"], folders)
    own = {name: value for name, value in entry.items() if name != "tasks"}
    place = {"file": document.file, "line": document.line_of(path)}
    return ScheduleSpec(
        **{"name": tasks_file.stem, "cron": "", **place, **own}, tasks_file=tasks_file
    )


def _too_many_agents(checked: list[CheckedDocument]) -> Iterator[Problem]:
    total = 0
    for document, spec in checked:
        added = spec.get("number", 1) * max(1, len(spec.get("context", ())))
        total += added
        if total > MAX_AGENTS >= total - added:
            message = f"{total:,} agents up to here, at most {MAX_AGENTS:,} per file: reduce number"
            yield problem_at(document, ("spec", "number"), message)

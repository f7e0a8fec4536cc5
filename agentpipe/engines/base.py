"""Engine and Agent: the seam that engines implement, and the protocol of users' agent classes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from agentpipe.config.mcp_universe import engine_for, hint_to_type, problems
from agentpipe.connections import plugins
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.evaluation.evaluators import Evaluation


class Agent(Protocol):
    """Answers tasks, one at a time; ``open`` and ``close`` are optional.

    Each of the three is a coroutine function, or a plain method, which runs in a thread.
    """

    def execute(self, task: Task, context: Context) -> Any:
        """Return the answer: a string, any JSON value, or an ``Answer``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer together with what its agent knows about it.

    Attributes:
        value: A string or any JSON value.
        stop: Why the answer ended, one of ``result.STOPS``; None if the agent does not know.
        evaluations: The evaluations, if the agent's own process already evaluated the answer.
    """

    value: Any
    stop: str | None = None
    evaluations: tuple[Evaluation, ...] | None = None


class Engine(Protocol):
    """Builds agents from one config; one engine serves all agents of a collection.

    A class may set these flags:

    - ``has_processes = True``: its agents run in separate processes, which it starts as the
      context's ``account`` if there is one. ``isolation: process`` adds nothing to them.
    - ``judges_answers = True``: its agents can evaluate their own answers. A task that already has
      ``answered`` is then only judged, not run again.
    - ``ends_programs = True``: programs that a run starts end with the run.
    - ``runs_code = False``: checking a config runs none of the user's code. An engine that does run
      it can offer ``check_unrun(config)``, which does not.
    - ``records_tokens = True``: its agents can record token ids.

    Optional members:

    - ``models``: the worker's variables for models, on engines whose agents ask models themselves.
      In a recorded run, the agent's context points to the run's gateway.
    - ``unpriced_model(config)``: the model of a config whose cost cannot be known.
    - ``unrecorded_model(config)``: the type of an llm that returns no token ids.
    - ``secrets``: strings to mask in logs and results, in addition to the contexts' values.

    Attributes:
        search: Folders to search for ``module:name`` references.
        blocks: ``execute`` is a plain function, so agents are built and run in threads.
    """

    search: Sequence[Path]
    blocks: bool

    def __init__(self, config: AgentConfig) -> None:
        """Check the config.

        Raises:
            ConfigError: With the file and line.
        """

    def build(self) -> Agent:
        """Build a new agent; errors of the user's constructor pass through."""


@runtime_checkable
class ServerChecks(Protocol):
    """An engine whose agents start or connect to MCP servers."""

    def server_problems(self, context: Context, *, start: bool) -> list[str]:
        """Return a sentence for each server that an agent with this context cannot use here.

        With ``start``, each server is started once, within the agent's time limit. The sentences
        contain no secrets.
        """


def open_engine(config: AgentConfig, name: str | None = None) -> Engine:
    """Open the engine ``name``, or the one for the config's type, after checking the config.

    Raises:
        ConfigError: Unknown engine, or the engine rejects the config.
    """
    if found := problems(config):
        raise ConfigError(found)
    engine: Engine = engine_class(config, name)(config)
    return engine


def has_processes(config: AgentConfig, name: str | None = None) -> bool:
    """Whether the engine runs each agent in its own process.

    Raises:
        ConfigError: Unknown engine.
    """
    return bool(getattr(engine_class(config, name), "has_processes", False))


def engine_class(config: AgentConfig, name: str | None = None) -> Any:
    """The class of the engine ``name``, or of the engine for the config's type.

    Raises:
        ConfigError: Unknown engine.
    """
    try:
        return plugins.load("agentpipe.engines", name or engine_for(config))
    except ConfigError as error:
        message = f"{error}{hint_to_type(config.type)}"
        raise ConfigError(config.problem(message, "spec", "type")) from error

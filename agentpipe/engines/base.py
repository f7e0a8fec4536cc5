"""Engine and Agent: the seam that engines implement, and the protocol of users' classes."""

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
    """Answers tasks, one at a time; it may have ``open`` and ``close`` as well.

    Each of the three is a coroutine, or a plain method, which runs in a thread.
    """

    def execute(self, task: Task, context: Context) -> Any:
        """The answer: a string or any JSON value, or an ``Answer``."""


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer with what its agent knows about it.

    Attributes:
        value: A string or any JSON value.
        stop: Why it ended, one of ``result.STOPS``; None if the agent does not know.
        evaluations: If it is already evaluated, in the agent's own process.
    """

    value: Any
    stop: str | None = None
    evaluations: tuple[Evaluation, ...] | None = None


class Engine(Protocol):
    """Builds agents from one config; one engine serves all agents of a collection.

    A class may set ``has_processes = True``: its agents live in processes of their own, which it
    starts as the context's ``account`` where there is one, and ``isolation: process`` adds nothing
    to them. With ``judges_answers = True``, an agent that evaluates
    its answers only judges a task that has ``answered``. With ``ends_programs = True``, the
    programs that a run starts end with it. With ``runs_code = False``, checking a config runs none
    of the user's code; one that does may have ``check_unrun(config)``, which does not. With
    ``records_tokens = True``, its agents can record token ids. One with ``models``, the worker's
    variables for models, has agents that ask models themselves: where a run is recorded, their
    context leads them to its gateway. ``unpriced_model(config)`` names the model of a config whose
    cost cannot be known, and ``unrecorded_model(config)`` the type of an llm that gives no ids. An
    engine may have ``secrets``: strings to mask in logs and results, beside the contexts' values.

    Attributes:
        search: Folders to look up ``module:name`` references in.
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
        """A new agent; errors of the user's constructor pass through."""


@runtime_checkable
class ServerChecks(Protocol):
    """An engine whose agents start or reach servers of their own."""

    def server_problems(self, context: Context, *, start: bool) -> list[str]:
        """A sentence for each server that an agent with this context cannot use on this machine.

        With ``start``, each is started once, within the agent's own limit. No secret is in them.
        """


def open_engine(config: AgentConfig, name: str | None = None) -> Engine:
    """The engine ``name``, or the one for the config's type, with the config checked.

    Raises:
        ConfigError: Unknown engine, or it refuses the config.
    """
    if found := problems(config):
        raise ConfigError(found)
    engine: Engine = engine_class(config, name)(config)
    return engine


def has_processes(config: AgentConfig, name: str | None = None) -> bool:
    """Whether the engine runs each agent in a process by itself.

    Raises:
        ConfigError: Unknown engine.
    """
    return bool(getattr(engine_class(config, name), "has_processes", False))


def engine_class(config: AgentConfig, name: str | None = None) -> Any:
    """The class of the engine ``name``, or of the one for the config's type.

    Raises:
        ConfigError: Unknown engine.
    """
    try:
        return plugins.load("agentpipe.engines", name or engine_for(config))
    except ConfigError as error:
        message = f"{error}{hint_to_type(config.type)}"
        raise ConfigError(config.problem(message, "spec", "type")) from error

"""Agent: the seam that engines fill and that users' classes satisfy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agentpipe.config.mcp_universe import engine_for, hint_to_type, problems
from agentpipe.connections import plugins
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.evaluation.evaluators import Evaluation


class Agent(Protocol):
    """Answers tasks, one at a time; optional ``open`` and ``close`` frame its life.

    Each of them may be a plain method, which runs in a thread, or a coroutine.
    """

    def execute(self, task: Task, context: Context) -> Any:
        """The answer: text, or anything that is JSON."""


@dataclass(frozen=True, slots=True)
class Judged:
    """An answer whose task's evaluators have judged it already, where the agent lives."""

    answer: Any
    evaluations: tuple[Evaluation, ...]


class Engine(Protocol):
    """Makes agents of one config; one engine serves all agents of a collection.

    A class may say ``has_processes = True``: its agents live in processes of their own, so that
    ``isolation: process`` adds nothing. An engine may have ``secrets``: texts beside those of the
    contexts that are masked in what its agents leave behind.

    Attributes:
        search: Folders that ``module:name`` references are looked up in.
        blocks: Its agents' ``execute`` is a plain function: they are built and run in threads.
    """

    search: Sequence[Path]
    blocks: bool

    def __init__(self, config: AgentConfig) -> None:
        """Check the config.

        Raises:
            ConfigError: With the file and line.
        """

    def build(self) -> Agent:
        """A new agent. What the user's constructor raises goes through."""


def open_engine(config: AgentConfig, name: str | None = None) -> Engine:
    """The engine ``name``, or the one that is meant for ``config``, with the config checked.

    Raises:
        ConfigError: There is none, or it refuses the config.
    """
    if found := problems(config):
        raise ConfigError(found)
    engine: Engine = engine_class(config, name)(config)
    return engine


def has_processes(config: AgentConfig, name: str | None = None) -> bool:
    """Whether the agents of ``config`` live in processes of their own anyhow.

    Raises:
        ConfigError: There is no such engine.
    """
    return bool(getattr(engine_class(config, name), "has_processes", False))


def engine_class(config: AgentConfig, name: str | None = None) -> Any:
    """The class of the engine ``name``, or of the one that is meant for ``config``.

    Raises:
        ConfigError: There is no such engine.
    """
    try:
        return plugins.load("agentpipe.engines", name or engine_for(config))
    except ConfigError as error:
        message = f"{error}{hint_to_type(config.type)}"
        raise ConfigError(Problem(message, str(config.file), config.line)) from error

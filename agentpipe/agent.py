"""Agent: the seam that engines fill and that users' classes satisfy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agentpipe import plugins
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentpipe.agent_config import AgentConfig
    from agentpipe.context import Context
    from agentpipe.evaluate import Evaluation
    from agentpipe.task import Task


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


def open_engine(config: AgentConfig) -> Engine:
    """The engine for ``config.type``, with its config checked.

    Raises:
        ConfigError: There is none, or it refuses the config.
    """
    engine: Engine = _engine_class(config)(config)
    return engine


def has_processes(config: AgentConfig) -> bool:
    """Whether the agents of ``config`` live in processes of their own anyhow.

    Raises:
        ConfigError: There is no such engine.
    """
    return bool(getattr(_engine_class(config), "has_processes", False))


def _engine_class(config: AgentConfig) -> Any:
    try:
        return plugins.load("agentpipe.engines", config.type)
    except ConfigError as error:
        raise ConfigError(Problem(str(error), str(config.file), config.line)) from error

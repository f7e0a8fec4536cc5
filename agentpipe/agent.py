"""Agent: the seam that engines fill and that users' classes satisfy."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from agentpipe import plugins
from agentpipe.errors import ConfigError, Problem
from agentpipe.mcp_universe import engine_for, hint_to_type, problems

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentpipe.agent_config import AgentConfig
    from agentpipe.context import Context
    from agentpipe.task import Task


class Agent(Protocol):
    """Answers tasks, one at a time; optional ``open`` and ``close`` frame its life.

    Each of them may be a plain method, which runs in a thread, or a coroutine.
    """

    def execute(self, task: Task, context: Context) -> Any:
        """The answer: text, or anything that is JSON."""


class Engine(Protocol):
    """Makes agents of one config; one engine serves all agents of a collection.

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
    """The engine that runs ``config``, with its config checked.

    Raises:
        ConfigError: There is none, or it refuses the config.
    """
    if found := problems(config):
        raise ConfigError(found)
    try:
        factory = plugins.load("agentpipe.engines", engine_for(config))
    except ConfigError as error:
        message = f"{error}{hint_to_type(config.type)}"
        raise ConfigError(Problem(message, str(config.file), config.line)) from error
    engine: Engine = factory(config)
    return engine

"""EitherEngine: MCP-Universe's simple agents run natively, but for tasks that need its own code.

Whether that is so depends on the task: one has files to prepare, or is judged by operators that
only its package has. Its users' files shall do what they did, so that nobody has to choose.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_universe import PEER_ENGINE, task_needs
from agentpipe.engines.base import engine_class
from agentpipe.errors import AgentFailed, ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.base import Agent, Engine


class EitherEngine:
    """Builds agents that have both; theirs is opened with the first task that needs it."""

    blocks = False

    def __init__(self, config: AgentConfig, native: Engine) -> None:
        self.search: Sequence[Path] = native.search
        self.secrets = getattr(native, "secrets", ())
        self._config, self._native = config, native
        self._theirs: Engine | None = None

    def build(self) -> Agent:
        """An agent that has neither open yet."""
        return _Either(self._native.build(), self._their_agent)

    def _their_agent(self) -> Agent:
        if self._theirs is None:
            self._theirs = engine_class(self._config, PEER_ENGINE)(self._config)
        return self._theirs.build()


class _Either:
    def __init__(self, native: Agent, build: Any) -> None:
        self._native, self._build = native, build
        self._theirs: Any = None

    @property
    def grace_s(self) -> float:
        """Theirs cleans up after a run, and that takes longer."""
        grace_s: float = getattr(self._theirs or self._native, "grace_s", 0.0)
        return grace_s

    async def execute(self, task: Task, context: Context) -> Any:
        needs = task_needs(task)
        if not needs:
            return await self._native.execute(task, context)
        if self._theirs is None:
            try:
                self._theirs = self._build()
            except ConfigError as error:
                message = f"the task has {', '.join(needs)}: {error}"
                raise AgentFailed(message, kind="ConfigError") from error
        return await self._theirs.execute(task, context)

    async def close(self) -> None:
        try:
            if self._theirs is not None:
                await self._theirs.close()
        finally:
            await self._native.close()  # type: ignore[attr-defined]

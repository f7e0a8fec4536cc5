"""HybridEngine: runs MCP-Universe's simple agents natively, unless a task needs MCP-Universe.

A task needs it for ``prepares``, ``cleanups``, and operators that only that package has.
MCP-Universe's files work unchanged, so the user does not have to choose an engine.
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


class HybridEngine:
    """Builds agents of both engines; the peer engine opens with the first task that needs it."""

    blocks = False
    judges_answers = True

    def __init__(self, config: AgentConfig, native: Engine) -> None:
        self.search: Sequence[Path] = native.search
        self.secrets = getattr(native, "secrets", ())
        self._config, self._native = config, native
        self._peer: Engine | None = None

    def build(self) -> Agent:
        """Build an agent with neither engine's agent open yet."""
        return _HybridAgent(self._native.build(), self._build_peer)

    def _build_peer(self) -> Agent:
        if self._peer is None:
            self._peer = engine_class(self._config, PEER_ENGINE)(self._config)
        return self._peer.build()


class _HybridAgent:
    def __init__(self, native: Agent, build_peer: Any) -> None:
        self._native, self._build_peer = native, build_peer
        self._peer: Any = None

    @property
    def grace_s(self) -> float:
        """The peer's grace once it is open, because its cleanups take longer."""
        grace_s: float = getattr(self._peer or self._native, "grace_s", 0.0)
        return grace_s

    async def execute(self, task: Task, context: Context) -> Any:
        needs = task_needs(task)
        if not needs:
            return await self._native.execute(task, context)
        if self._peer is None:
            try:
                self._peer = self._build_peer()
            except ConfigError as error:
                message = f"the task has {', '.join(needs)}: {error}"
                raise AgentFailed(message, kind="ConfigError", permanent=True) from error
        return await self._peer.execute(task, context)

    async def close(self) -> None:
        try:
            if self._peer is not None:
                await self._peer.close()
        finally:
            await self._native.close()  # type: ignore[attr-defined]  # all our native agents have it

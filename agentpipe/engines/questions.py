"""Questions: which agents can do nothing with a task that asks nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.config.agent_config import AgentConfig

# A class or a program may work from other fields. MCP-Universe's agents ask whatever they get.
_ASKING = frozenset({"llm"})


def needs_question(config: AgentConfig, engine: str | None) -> bool:
    """Whether an agent of this config asks a model nothing but the task's question."""
    return (engine or config.type) in _ASKING

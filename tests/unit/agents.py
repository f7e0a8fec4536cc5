"""Stub agents, an engine that builds them, and a Runner for unit tests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.collection import Collection
from agentpipe.core.context import Context
from agentpipe.worker.running.runner import Runner

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.engines.base import Agent

CREW = Collection(name="crew", file=Path("crew.yaml"), line=1, config_file=Path("agent.yaml"))


class MadeEngine:
    """Builds agents with the function that the test passes."""

    search: Sequence[Path] = ()

    def __init__(
        self,
        config: AgentConfig | None = None,
        *,
        make: Callable[[], Any] = object,
        blocks: bool = False,
    ) -> None:
        del config
        self._make, self.blocks = make, blocks

    def build(self) -> Agent:
        agent: Agent = self._make()
        return agent


def runner_of(
    make: Callable[[], Any],
    *,
    blocks: bool = False,
    env: dict[str, str] | None = None,
    **limits: Any,
) -> Runner:
    """A Runner whose agents ``make`` creates."""
    engine = MadeEngine(make=make, blocks=blocks)
    return Runner("crew_0", replace(CREW, **limits), engine, Context(env or {}))

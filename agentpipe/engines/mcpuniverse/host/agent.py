"""AgentFactory and HostedAgent: agents built from a config that is read once."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path
from typing import Any

from . import environ, templates
from .components import read_components
from .failure import ServersFailedError
from .threads import bounded

CLOSE_LIMIT_S = 10.0
PING_LIMIT_S = 10.0


class AgentFactory:
    """Builds the process's agent, and builds it again after each failure.

    Attributes:
        context: MCP-Universe's own Context.
        judges_env: Variables for evaluators only.
        manager: Starts MCP servers, including those for cleanups of tasks.
    """

    def __init__(self, request: dict[str, Any]) -> None:
        from mcpuniverse.benchmark import task
        from mcpuniverse.common.context import Context

        self.context = Context(**request["context"])
        self.judges_env = request.get("judges_env") or {}
        _update_environ(self.context.env)
        templates.restrict(request["templates"], self.context.env)
        self._components = read_components(request["config"], request.get("prompts") or {})
        self.manager = _manager(_servers(request.get("servers")), self.context)
        task.MCPManager = lambda **_: self.manager

    def build(self) -> HostedAgent:
        """Build a new agent without starting its servers.

        Raises:
            Exception: MCP-Universe's own error for a config that it rejects.
        """
        from mcpuniverse.workflows.builder import WorkflowBuilder

        builder = WorkflowBuilder(mcp_manager=self.manager, config=self._components)
        builder.build(project_id="")
        builder.set_context(self.context)
        main = builder.get_entrypoint()
        if main is None:
            raise ValueError("the file has several components: mark one with is_main: true")
        names = [component["spec"]["name"] for component in self._components]
        return HostedAgent(
            builder.get_component(main), [builder.get_component(name) for name in names]
        )


class HostedAgent:
    """An agent or workflow of MCP-Universe, with its components."""

    def __init__(self, main: Any, components: list[Any]) -> None:
        from mcpuniverse.agent.base import BaseAgent
        from mcpuniverse.llm.base import BaseLLM

        self.main, self._components = main, components
        self._agents = [each for each in components if isinstance(each, BaseAgent)]
        llms = [each.config for each in components if isinstance(each, BaseLLM)]
        self._seeded = [(config, config.seed) for config in llms if hasattr(config, "seed")]
        self._conditions: Any = None

    async def start(self, servers: list[dict[str, Any]] | None) -> None:
        """Start the task's MCP servers, or the config's if the task has none.

        Raises:
            ServersFailedError: A server does not start.
        """
        from mcpuniverse.agent.base import BaseAgent

        chosen = {}
        if servers is not None and isinstance(self.main, BaseAgent):
            chosen["mcp_servers"] = servers
        self._conditions = _conditions(servers)
        try:
            await self.main.initialize(**chosen)
        except Exception as error:
            raise ServersFailedError(f"the MCP servers cannot be started: {error}") from error

    @property
    def started(self) -> bool:
        """Whether ``start`` has been called."""
        return self._conditions is not None

    async def fits(self, servers: list[dict[str, Any]] | None) -> bool:
        """Whether ``servers`` already run, in the current environment, and answer."""
        if self._conditions != _conditions(servers):
            return False
        try:
            for client in self._clients():
                await asyncio.wait_for(client.list_tools(), PING_LIMIT_S)
        except Exception:  # noqa: BLE001 - a lost connection can raise anything
            return False
        return True

    def begin(self, seed: int | None) -> None:
        """Reset all components after the previous task, and set the seed."""
        for config, usual in self._seeded:
            config.seed = usual if seed is None else seed
        for component in self._components:
            if hasattr(component, "reset"):
                component.reset()

    async def close(self) -> None:
        """Close everything, even after a failed start; each part within ``CLOSE_LIMIT_S``."""
        await bounded(CLOSE_LIMIT_S, self.main.cleanup())
        for client in reversed(self._clients()):  # 1.1.3 forgets clients of a failed start.
            await bounded(CLOSE_LIMIT_S, client.cleanup())

    def _clients(self) -> list[Any]:
        return [
            client
            for agent in self._agents
            for client in agent._mcp_clients.values()  # noqa: SLF001 - no public API
        ]


def _conditions(servers: list[dict[str, Any]] | None) -> Any:
    """Everything that running servers depend on: their list and their environment."""
    return json.dumps(servers, sort_keys=True), dict(os.environ)


def _update_environ(env: dict[str, str]) -> None:
    """Apply the context, and make ``python3 -m ...`` of MCP servers use this Python."""
    os.environ.update(env)
    here = str(Path(sys.executable).parent)
    os.environ["PATH"] = os.pathsep.join([here, os.environ.get("PATH", os.defpath)])
    environ.refresh()


def _manager(servers: dict[str, Any], context: Any) -> Any:
    """A manager that renders a server's templates only when it starts the server.

    1.1.3 also renders them then, from ``os.environ``, which has the context and the effects of
    ``prepares``. Rendering all servers in advance would cost 50 ms for nothing.
    """
    from mcpuniverse.mcp.manager import MCPManager

    late = type("LateManager", (MCPManager,), {"set_params": lambda *_, **__: None})
    return late(config=servers, context=context)


def _servers(own: dict[str, Any] | None) -> dict[str, Any]:
    from mcpuniverse.mcp import manager

    built_in = Path(manager.__file__).parent / "configs" / "server_list.json"
    return {**json.loads(built_in.read_text()), **(own or {})}

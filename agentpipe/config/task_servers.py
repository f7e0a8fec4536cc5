"""TaskServers: the MCP servers that a collection's tasks can choose.

The collection's ``task_servers`` is the exact list. Without it, tasks of an ``llm`` agent choose
among the agent's own servers and those of the operator's list. Agents of MCP-Universe's types
accept every server that they know. Other agents start no servers for a task.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_servers import VARIABLE, read_list
from agentpipe.core.did_you_mean import did_you_mean, nearest
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.core.task import Task

# Keys that say how a server is started or reached: only the operator can set them.
_OPERATORS = (
    *("command", "args", "env", "cwd", "stdio"),
    *("url", "http_url", "gateway_address", "headers", "type", "sse", "http"),
    "stateless",
)
_REMEDY = (
    "its owner can write it into the agent's servers, into the file that "
    f"{VARIABLE} names, or into the collection's task_servers"
)


@dataclass(frozen=True, slots=True)
class _Agent:
    """What an agent config says about servers.

    Attributes:
        is_llm: Whether its type is ``llm``.
        is_theirs: Whether it is one of MCP-Universe's.
        own: Its servers by name.
    """

    is_llm: bool
    is_theirs: bool
    own: Mapping[str, Mapping[str, Any]]

    @classmethod
    def of(cls, config: AgentConfig) -> _Agent:
        from agentpipe.config.mcp_universe import is_theirs

        servers = [each for document in config.documents for each in _servers(document.data)]
        own = {each["name"]: each for each in servers if isinstance(each.get("name"), str)}
        return cls(config.type == "llm", is_theirs(config), own)


def _servers(document: Mapping[str, Any]) -> list[dict[str, Any]]:
    config = document["spec"].get("config") or {}
    servers = config.get("servers")
    return [each for each in servers if isinstance(each, dict)] if isinstance(servers, list) else []


class TaskServers:
    """What one collection offers; files are read for the first task that chooses a server."""

    def __init__(self, named: Sequence[str] | None, config_file: Path) -> None:
        """Store where to look.

        Args:
            named: The collection's ``task_servers``; None without the key.
            config_file: The agent config; it can be on another machine.
        """
        self._named, self._config_file = named, config_file

    def problems(self, task: Task) -> list[str]:
        """Return what the task cannot choose, one sentence each."""
        chosen = task.mcp_servers if task.use_specified_server else []
        if not chosen and not (task.cleanups and self._named is not None):
            return []
        return [*self._wrong_choices(chosen), *self._wrong_cleanups(task.cleanups)]

    def settle(self) -> None:
        """Read the files now, so that a worker keeps using what it read at its start."""
        _ = self._agent, self._listed

    @cached_property
    def _agent(self) -> _Agent | None:
        """None if the agent config is on another machine or invalid (reported elsewhere)."""
        from agentpipe.config.agent_config import load_agent_config

        try:
            return _Agent.of(load_agent_config(self._config_file))
        except (ConfigError, OSError):
            return None

    @cached_property
    def _listed(self) -> Collection[str]:
        path = os.environ.get(VARIABLE)
        try:
            return read_list(Path(path)) if path else ()
        except ConfigError:
            return ()  # Reported elsewhere.

    def _offered(self) -> list[str] | None:
        """Return the names that can be chosen; None for any."""
        if self._named is not None:
            return list(self._named)
        agent = self._agent
        return [*agent.own, *self._listed] if agent and agent.is_llm else None

    def _wrong_choices(self, chosen: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        offered, agent = self._offered(), self._agent
        for index, entry in enumerate(chosen):
            place = f"mcp_servers[{index}]"
            yield from (f"{place}: {flaw}" for flaw in _not_offered(entry.get("name"), offered))
            if agent is None or agent.is_llm or agent.is_theirs:
                yield from (f"{place}: {flaw}" for flaw in _of_operators(entry))
            if agent is not None and agent.is_llm:
                own = agent.own.get(str(entry.get("name")), {})
                yield from (f"{place}: {flaw}" for flaw in _beyond_own(entry, own))

    def _wrong_cleanups(self, cleanups: Sequence[Mapping[str, Any]]) -> Iterator[str]:
        """Check cleanups: MCP-Universe's code starts their servers; the agent's own run anyway."""
        if self._named is None:
            return
        offered = [*self._named, *(self._agent.own if self._agent else ())]
        for index, cleanup in enumerate(cleanups):
            if name := cleanup.get("server"):
                for flaw in _not_offered(name, offered):
                    yield f"cleanups[{index}]: server: {flaw}"


def _not_offered(name: Any, offered: Sequence[str] | None) -> Iterator[str]:
    if not isinstance(name, str) or not name:
        yield "a server needs a name, a string"
    elif offered is not None and name not in offered:
        near = nearest(name, offered)
        hint = f"did you mean {near!r:.60}?" if near else _REMEDY
        yield f"the MCP server {name!r:.60} is not offered to tasks: {hint}"


def _of_operators(entry: Mapping[str, Any]) -> Iterator[str]:
    for key in _OPERATORS:
        if key in entry:
            yield f"a task cannot set a server's {key}: it chooses by name, tools and transport"


def _beyond_own(entry: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    """Yield what a task requests from an agent's own server beyond the agent's own access."""
    allowed, asked = own.get("tools"), entry.get("tools")
    if isinstance(allowed, list) and allowed and isinstance(asked, list):
        for tool in asked:
            if tool not in allowed:
                hint = did_you_mean(tool, [each for each in allowed if isinstance(each, str)])
                yield f"tools: the agent may not use {tool!r:.60}: {hint}"
    transport = entry.get("transport")
    if transport is not None and own.get("transport", transport) != transport:
        yield f"transport: the agent reaches it by {own['transport']!r:.20}: leave it out"

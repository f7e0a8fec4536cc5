"""Which MCP servers MCP-Universe's agents and tasks can use, and which engine starts them.

Servers in our list or the user's run natively. MCP-Universe's code adds the servers in its package,
permissions, and its gateway.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_servers import BUILT_IN, TRANSPORTS, VARIABLE, read_list
from agentpipe.config.mcp_universe_names import names
from agentpipe.config.shown_values import place_in, refusal, shown_names
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.config.yaml_source import KeyPath

_NO_LIST = "expected a list of entries such as `- name: calculator`"
_NO_NAME = "a server needs a name: `- name: calculator`"


def added_servers() -> dict[str, dict[str, Any]]:
    """Return the servers of our list that are added to MCP-Universe's.

    Its own list lacks them, or would show a password in their command line.
    """
    theirs = names().servers - {"postgres", "postgres-pro"}
    return {name: entry for name, entry in BUILT_IN.items() if name not in theirs}


def server_needs(servers: Any) -> Iterator[str]:
    """Yield why the servers of an agent or a task need MCP-Universe's own code."""
    for server in servers if isinstance(servers, list) else ():
        if not isinstance(server, dict):
            continue
        extra = sorted(server.keys() - names().native_server_keys)
        yield from (f"a server's {key} is set" for key in extra if server[key])
        name = server.get("name")
        if not isinstance(name, str):
            continue
        if name in names().package_servers and name not in _listed():
            yield f"the server {name} comes with its package"
        elif server.get("transport") == "sse" and "sse" not in _entry(name):
            yield f"the server {name} is reached by sse, through its gateway"


def server_faults(servers: Any) -> Iterator[tuple[KeyPath, str]]:
    """Yield the mistakes in an agent's or task's servers that fail in MCP-Universe's code.

    Raises:
        ConfigError: The user's list of servers cannot be read.
    """
    if not isinstance(servers, list):
        yield (), _NO_LIST
        return
    listed = _read_list()
    for index, server in enumerate(servers):
        if fault := _fault(server, listed):
            yield (index,), fault


def _fault(server: Any, listed: Mapping[str, Any]) -> str:
    if not isinstance(server, dict):
        return _NO_LIST
    name, transport = server.get("name"), server.get("transport", "stdio")
    if not isinstance(name, str) or not name:
        return _NO_NAME
    known = {**dict.fromkeys(names().servers), **BUILT_IN, **listed}
    if name not in known:
        hint = did_you_mean(name, sorted(known), f"add it to the file that {VARIABLE} names")
        return f"unknown MCP server {name!r:.60}: {hint}"
    if transport not in TRANSPORTS:
        hint = did_you_mean(transport, TRANSPORTS)
        return f"transport {transport!r:.40} of the MCP server {name!r:.60}: {hint}"
    if shown := shown_names(listed.get(name, {})):
        return refusal(name, shown, place_in(Path(os.environ[VARIABLE]), name, shown))
    return _unreachable(server, name, str(transport), listed)


def _unreachable(
    server: Mapping[str, Any], name: str, transport: str, listed: Mapping[str, Any]
) -> str:
    """Check the transport: sse always uses the gateway, http and stdio need a list entry."""
    has = [way for way in TRANSPORTS if way in listed.get(name, ("stdio",))]
    through_gateway = transport == "sse" or (transport == "http" and server.get("gateway_address"))
    if transport in has or through_gateway:
        return ""
    return f"the MCP server {name!r:.60} cannot be reached by {transport}: write one of {has}"


def _entry(name: str) -> Mapping[str, Any]:
    entry = {**BUILT_IN, **_listed()}.get(name)
    return entry if isinstance(entry, dict) else {}


def _listed() -> Mapping[str, Any]:
    """Return the user's list; empty if it cannot be read, which the engine reports."""
    try:
        return _read_list()
    except ConfigError:
        return {}


def _read_list() -> Mapping[str, Any]:
    path = os.environ.get(VARIABLE)
    return read_list(Path(path)) if path else {}

"""ServerTool: a tool as its MCP server describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from agentpipe.engines.mcp.errors import UnreadableAnswer


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A tool as its server describes it."""

    name: str
    description: str
    parameters: dict[str, Any]


def tools_of(page: Any) -> list[ServerTool]:
    """The tools on a page of a server's list; what is none is left out.

    Raises:
        UnreadableAnswer: It is no page.
    """
    entries = page.get("tools") if isinstance(page, dict) else None
    if not isinstance(entries, list):
        raise UnreadableAnswer("its list of tools is no list")
    return [tool for entry in entries if (tool := _tool_of(entry))]


def _tool_of(entry: Any) -> ServerTool | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    description, schema = entry.get("description"), entry.get("inputSchema")
    return ServerTool(
        entry["name"],
        description if isinstance(description, str) else "",
        schema if isinstance(schema, dict) else {"type": "object"},
    )

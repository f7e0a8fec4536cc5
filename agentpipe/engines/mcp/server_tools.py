"""ServerTool: a tool as its MCP server describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.engines.mcp.errors import UnreadableAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable


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


def missing_tools(wanted: Iterable[str], listed: Iterable[ServerTool]) -> str:
    """Which of the wanted ones a server lacks, as a sentence; empty if it has all."""
    names = [tool.name for tool in listed]
    lacking = sorted(set(wanted) - set(names))
    hints = (f"no tool {name!r}: {did_you_mean(name, names)}" for name in lacking)
    return "; ".join(hints)


def _tool_of(entry: Any) -> ServerTool | None:
    if not isinstance(entry, dict) or not isinstance(entry.get("name"), str):
        return None
    description, schema = entry.get("description"), entry.get("inputSchema")
    return ServerTool(
        entry["name"],
        description if isinstance(description, str) else "",
        schema if isinstance(schema, dict) else {"type": "object"},
    )

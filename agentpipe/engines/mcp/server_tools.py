"""ServerTool: a tool as its MCP server describes it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core import caps
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.outside import encoded
from agentpipe.engines.mcp.errors import TooMuchSent, UnreadableAnswer

if TYPE_CHECKING:
    from collections.abc import Iterable


_MAX_SHOWN, _MAX_SHOWN_CHARS = 5, 100


@dataclass(frozen=True, slots=True)
class ServerTool:
    """A tool of an MCP server."""

    name: str
    description: str
    parameters: dict[str, Any]


class ToolListing:
    """A server's list of tools, read page by page, with caps.

    Attributes:
        tools: The tools read so far.
    """

    def __init__(self) -> None:
        self.tools: list[ServerTool] = []
        self._pages = self._bytes = 0

    def add(self, page: Any) -> Any:
        """Add a page of tools, and return the cursor of the next page; invalid tools are skipped.

        Raises:
            UnreadableAnswer: It is not a page, or a cap is exceeded.
        """
        entries = page.get("tools") if isinstance(page, dict) else None
        if not isinstance(entries, list):
            raise UnreadableAnswer("its list of tools is not a list")
        self._pages += 1
        for tool in filter(None, map(_tool_of, entries)):
            self.tools.append(tool)
            self._bytes += _checked_bytes(tool)
            _refuse(len(self.tools), caps.MAX_TOOLS, "tools", "MAX_TOOLS")
            _refuse(self._bytes, caps.MAX_TOOL_LIST_BYTES, "bytes of tools", "MAX_TOOL_LIST_BYTES")
        cursor = page.get("nextCursor")
        if cursor:
            _refuse(self._pages + 1, caps.MAX_TOOL_PAGES, "pages of tools", "MAX_TOOL_PAGES")
        return cursor


def _checked_bytes(tool: ServerTool) -> int:
    """Check the tool against the caps; return the approximate memory of its texts."""
    name, description, schema = len(tool.name), len(tool.description), len(encoded(tool.parameters))
    _refuse(name, caps.MAX_TOOL_NAME_CHARS, "characters in a name", "MAX_TOOL_NAME_CHARS")
    most = caps.MAX_DESCRIPTION_CHARS
    _refuse(description, most, "characters in a description", "MAX_DESCRIPTION_CHARS")
    _refuse(schema, caps.MAX_SCHEMA_BYTES, "bytes in a schema", "MAX_SCHEMA_BYTES")
    return name + description + schema


def _refuse(number: int, limit: int, what: str, cap: str) -> None:
    if number > limit:
        raise TooMuchSent(what, limit, cap)


def missing_tools(wanted: Iterable[str], listed: Iterable[ServerTool]) -> str:
    """The wanted tools that a server lacks, as a sentence; empty if it has all."""
    names = [tool.name for tool in listed]
    lacking = sorted(set(wanted) - set(names))[:_MAX_SHOWN]
    # Comparing long names is slow, and tasks and servers choose the length, so long names are left
    # out.
    names = [name for name in names if len(name) <= _MAX_SHOWN_CHARS]
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

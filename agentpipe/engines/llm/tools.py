"""Tool: what a server offers, under the name that the model uses."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import mcp.types

MAX_NAME_CHARS = 64
_INVALID_CHAR = re.compile(r"[^A-Za-z0-9_-]")


@dataclass(frozen=True, slots=True)
class Tool:
    """A tool as the model sees it; ``name`` is ``server__tool``, as in MCP-Universe."""

    name: str
    server: str
    tool: str
    description: str
    parameters: dict[str, Any]


def tool_of(server: str, tool: mcp.types.Tool) -> Tool:
    """The tool under a name that every model's API accepts."""
    name = _INVALID_CHAR.sub("_", f"{server}__{tool.name}")
    if len(name) > MAX_NAME_CHARS:  # The limit of the models' APIs.
        digest = hashlib.blake2b(name.encode(), digest_size=4).hexdigest()
        name = f"{name[: MAX_NAME_CHARS - len(digest) - 1]}_{digest}"
    return Tool(name, server, tool.name, tool.description or "", tool.input_schema)

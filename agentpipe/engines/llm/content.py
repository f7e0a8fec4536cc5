"""A tool's result as text for the model."""

from __future__ import annotations

from typing import Any

import mcp.types


def text_of(result: mcp.types.CallToolResult) -> str:
    """The parts of the result; a failure of the tool begins with ``Error:``."""
    parts = [_part(part) for part in result.content]
    text = "\n".join(parts)
    return f"Error: {text}" if result.is_error else text


def _part(part: Any) -> str:
    if isinstance(part, mcp.types.TextContent):
        return part.text
    if isinstance(part, mcp.types.EmbeddedResource):
        text = getattr(part.resource, "text", None)
        return text if isinstance(text, str) else f"(a resource: {part.resource.uri})"
    return f"(content of type {part.type}, which is not shown)"

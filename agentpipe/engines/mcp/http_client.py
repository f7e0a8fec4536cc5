"""An HTTP client for one MCP server."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.engines.http.clients import new_client
from agentpipe.engines.mcp.errors import HttpStatus

if TYPE_CHECKING:
    import httpx2


def new_server_client() -> httpx2.AsyncClient:
    """Make a client that raises ``HttpStatus`` on a redirect to another server."""
    return new_client(
        lambda response, text: HttpStatus(response.status_code, response.headers, text.encode())
    )

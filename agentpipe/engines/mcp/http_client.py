"""An HTTP client for one MCP server: what it sends, credentials included, goes to no other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.engines.http.clients import new_client
from agentpipe.engines.mcp.errors import HttpStatus

if TYPE_CHECKING:
    import httpx2

# With these a client repeats its request elsewhere; with the others it would GET what it posted.
_KEEPS_METHOD = frozenset({307, 308})


def new_server_client() -> httpx2.AsyncClient:
    """It follows a redirect within the same server, such as one to a trailing slash."""
    client = new_client()
    client.event_hooks = {"response": [_refuse_to_leave]}
    return client


async def _refuse_to_leave(response: httpx2.Response) -> None:
    if not response.has_redirect_location:
        return
    source, target = response.url, response.url.join(response.headers["location"])
    same = response.request.method == "GET" or response.status_code in _KEEPS_METHOD
    if not same or not _is_within(source, target):
        shown = target.copy_with(userinfo=b"", query=None, fragment=None)
        text = f"it redirects to {shown}: name that URL if it is the server"
        raise HttpStatus(response.status_code, response.headers, text.encode())


def _is_within(source: httpx2.URL, target: httpx2.URL) -> bool:
    """The same host and port, or its HTTPS; a default port is None."""
    origin = (target.scheme, target.host, target.port)
    allowed = {(source.scheme, source.host, source.port)}
    if source.scheme == "http" and source.port is None:
        allowed.add(("https", source.host, None))
    return origin in allowed and target.userinfo in {b"", source.userinfo}

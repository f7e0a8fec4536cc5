"""Failures of a request to an MCP server; the session turns them into agentpipe's errors."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core.caps import CapExceeded

if TYPE_CHECKING:
    from collections.abc import Mapping

# More than an error shows, because credentials are masked before the error is cut.
_MAX_SHOWN = 20_000


class McpServerFault(Exception):  # noqa: N818 - reads as what happened
    """The root of these errors."""


class ConnectionLost(McpServerFault, ConnectionError):  # noqa: N818 - reads as what happened
    """The server, or the connection to it, is gone."""


class UnreadableAnswer(McpServerFault):
    """The server sent something that cannot be read as an answer."""


class TooMuchSent(UnreadableAnswer):
    """The server sent more than a cap allows."""

    def __init__(self, what: str, limit: int, cap: str) -> None:
        super().__init__(str(CapExceeded(what, limit, cap)))


class HttpStatus(McpServerFault):
    """The server refused a request by its HTTP status.

    Attributes:
        status_code: Read by ``core.failures``, like ``headers``, which may hold Retry-After.
    """

    def __init__(self, status_code: int, headers: Mapping[str, str], body: bytes) -> None:
        self.status_code, self.headers = status_code, headers
        said = " ".join(body.decode(errors="replace").split())[:_MAX_SHOWN]
        super().__init__(f"HTTP {status_code}: {said}" if said else f"HTTP {status_code}")


class SessionForgotten(HttpStatus):
    """The server no longer knows the session: it did nothing, and needs a new session."""


class ToolMissing(McpServerFault):
    """The server lacks a tool that the agent or the task names."""


class ServerError(McpServerFault):
    """A JSON-RPC error: the server's own answer."""

    def __init__(self, error: Any) -> None:
        message = error.get("message") if isinstance(error, dict) else error
        super().__init__(message if isinstance(message, str) and message else f"error {error}")

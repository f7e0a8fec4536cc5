"""Turn MCP server failures, at start or during a call, into errors for the run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.core.failures import SERVER_ERRORS, is_permanent, rate_limit
from agentpipe.core.retry_after import asked_delay_s
from agentpipe.core.set_up import NO_PROGRAM
from agentpipe.core.shortage import shortage_of
from agentpipe.engines.mcp.errors import HttpStatus, ToolMissing, UnreadableAnswer
from agentpipe.engines.mcp.stdio import StdioTransport
from agentpipe.errors import AgentFailed, InfraError

if TYPE_CHECKING:
    from agentpipe.config.mcp_servers import McpServer
    from agentpipe.engines.mcp.transport import Transport

# At start, these statuses mean a wrong address.
WRONG_ADDRESS = frozenset({301, 302, 303, 307, 308, 404, 405, 410})
_KIND = "McpServerError"


async def call_failed(server: McpServer, transport: Transport, error: Exception) -> Exception:
    """The exception to raise for a call that failed with ``error``."""
    if isinstance(error, HttpStatus):
        return _refused(server, error)
    if isinstance(error, UnreadableAnswer):
        return InfraError(f"MCP server {server.name!r} gave an unreadable answer: {error}")
    detail = await transport.last_words() or str(error)
    return InfraError(f"MCP server {server.name!r} was lost during a call: {detail}")


def _refused(server: McpServer, error: HttpStatus) -> AgentFailed:
    return AgentFailed(
        f"MCP server {server.name!r} refused a call: {error}",
        kind=_KIND,
        infra=True,
        permanent=is_permanent(error),
        retry_after_s=_asked_s(error),
    )


async def not_started(server: McpServer, transport: Transport, error: Exception) -> AgentFailed:
    """The exception to raise for a session that failed to open with ``error``."""
    if isinstance(error, FileNotFoundError):
        text = f"MCP server {server.name!r}: {_missing(server)}"
        return AgentFailed(text, kind=_KIND, permanent=True)
    if isinstance(error, ToolMissing):
        text = f"MCP server {server.name!r} has {error}"
        return AgentFailed(text, kind=_KIND, permanent=True)
    last_words = await transport.last_words()
    shortage = shortage_of(error)
    return AgentFailed(
        f"MCP server {server.name!r} cannot be used: {error}{last_words and f': {last_words}'}",
        kind=_KIND,
        infra=True,
        permanent=not shortage and _will_never_start(transport, error),
        retry_after_s=_asked_s(error),
        shortage=shortage,
    )


def _missing(server: McpServer) -> str:
    folder = server.cwd
    if folder and not Path(folder).is_dir():
        return f"no such folder {folder!r}: correct its cwd"
    return f"no such program {server.command[0]!r}: install it on the workers"


def _will_never_start(transport: Transport, error: Exception) -> bool:
    """Whether the set-up is wrong: program, address or credential."""
    if isinstance(error, HttpStatus) and error.status_code in WRONG_ADDRESS:
        return True
    ended = isinstance(transport, StdioTransport) and transport.gone
    no_program = isinstance(error, OSError) and error.errno in NO_PROGRAM
    return ended or no_program or is_permanent(error)


def _asked_s(error: Exception) -> float | None:
    """Seconds to wait before a retry, if asked; any 5xx status can ask for that."""
    limit = rate_limit(error)
    if limit is None and isinstance(error, HttpStatus) and error.status_code in SERVER_ERRORS:
        return asked_delay_s(error)
    return limit.asked_s if limit else None

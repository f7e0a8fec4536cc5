"""How many MCP servers this process runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.engines.process.launcher import Child

_running: set[Child] = set()


def note_start(server: Child) -> None:
    """Count it until it has ended."""
    _running.add(server)
    server.ended.add_done_callback(lambda _: _running.discard(server))


def running_servers() -> int:
    """The servers that this process has started, and that have not ended; from any thread."""
    return len(_running)

"""Counts the MCP servers that this process runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.engines.process.launcher import Child

_running: set[Child] = set()


def note_start(server: Child) -> None:
    """Count a server until it has ended."""
    _running.add(server)
    server.ended.add_done_callback(lambda _: _running.discard(server))


def running_servers() -> int:
    """Number of servers that this process started and that are still running; thread-safe."""
    return len(_running)

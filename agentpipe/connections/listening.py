"""Listening: the error of a server that cannot."""

from __future__ import annotations

from agentpipe.errors import AgentpipeError


def cannot_listen(host: str, port: int, error: OSError | OverflowError) -> AgentpipeError:
    """The error for an address that is taken, or is not this machine's.

    No ``ConfigError``: the same command works once the process that has the port ends.
    """
    reason = getattr(error, "strerror", None) or error
    return AgentpipeError(
        f"cannot listen on {host} port {port}: {reason}: choose another with --host and --port"
    )

"""Exit codes of all commands; scripts depend on them."""

from __future__ import annotations

from agentpipe.errors import AgentpipeError, ConfigError, QueueFull, TaskError, Unreachable

OK, FAILED, USAGE, FULL, UNREACHABLE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_OF_ERRORS = {ConfigError: USAGE, TaskError: USAGE, QueueFull: FULL, Unreachable: UNREACHABLE}


def exit_code(error: AgentpipeError) -> int:
    """The exit code for an error."""
    return next((code for kind, code in _OF_ERRORS.items() if isinstance(error, kind)), FAILED)

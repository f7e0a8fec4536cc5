"""Exit codes of every command; a contract that scripts depend on."""

from __future__ import annotations

from agentpipe.errors import AgentpipeError, ConfigError, QueueFull, TaskError, Unreachable

OK, FAILED, USAGE, FULL, UNREACHABLE, PARTLY, INTERRUPTED = 0, 1, 2, 3, 4, 5, 130
_OF_ERRORS = {ConfigError: USAGE, TaskError: USAGE, QueueFull: FULL, Unreachable: UNREACHABLE}


def exit_code(error: AgentpipeError) -> int:
    """The exit code of a command that ended with this error."""
    return next((code for kind, code in _OF_ERRORS.items() if isinstance(error, kind)), FAILED)

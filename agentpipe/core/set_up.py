"""Setup: whether a run failed because something is missing on its machine.

Retries do not help: the run fails again until an operator fixes the setup.
"""

from __future__ import annotations

import errno

from agentpipe.core.shortage import first_argument, raised_in
from agentpipe.errors import ConfigError, MissingVariable

# Errors that mean a program cannot be started here, now or later.
NO_PROGRAM = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP}
)
# Without a key, OpenAI's SDK raises a plain OpenAIError, and Anthropic's a TypeError.
_NO_KEY = "Could not resolve authentication method"


def is_missing(error: BaseException) -> bool:
    """Whether the error says that a module, program, variable or setting is missing."""
    if isinstance(error, (ImportError, ConfigError, MissingVariable)):
        return True
    if type(error).__name__ == "OpenAIError" or first_argument(error).startswith(_NO_KEY):
        return True
    if isinstance(error, OSError):
        # Raised elsewhere, the same errors are about a file, which the task can have named.
        return error.errno in NO_PROGRAM and raised_in(error)[0] == "subprocess"
    return isinstance(error, KeyError) and raised_in(error) == ("os", "__getitem__")  # os.environ

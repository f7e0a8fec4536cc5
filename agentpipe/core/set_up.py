"""Set-up: whether a run failed because something is missing where it runs.

What is missing stays missing: the run fails again until the set-up is mended.
"""

from __future__ import annotations

import errno

from agentpipe.core.shortage import first_argument, raised_in
from agentpipe.errors import ConfigError, MissingVariable

# Why a program cannot be started here, now or later.
NO_PROGRAM = frozenset(
    {errno.ENOENT, errno.EACCES, errno.EPERM, errno.ENOTDIR, errno.ENOEXEC, errno.ELOOP}
)
# OpenAI's SDK raises its plain OpenAIError, and Anthropic's a TypeError, when it finds no key.
_NO_KEY = "Could not resolve authentication method"


def is_missing(error: BaseException) -> bool:
    """Whether the error says that a module, program, variable or setting is missing."""
    if isinstance(error, (ImportError, ConfigError, MissingVariable)):
        return True
    if type(error).__name__ == "OpenAIError" or first_argument(error).startswith(_NO_KEY):
        return True
    if isinstance(error, OSError):
        # Elsewhere the same errors are about a file, which the task may have named.
        return error.errno in NO_PROGRAM and raised_in(error)[0] == "subprocess"
    return isinstance(error, KeyError) and raised_in(error) == ("os", "__getitem__")  # os.environ

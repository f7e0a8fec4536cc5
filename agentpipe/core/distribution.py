"""How to install what is missing from this installation of agentpipe."""

from __future__ import annotations

import shlex
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentpipe.errors import MissingExtra

if TYPE_CHECKING:
    from collections.abc import Iterator

DISTRIBUTION = "dramatiq-agentpipe"


def pip_install(extra: str = "") -> str:
    """The command that installs missing requirements, or an extra, for this Python.

    This very Python: pip then finds the installed distribution, from an index or a clone, and asks
    no index for that name.
    """
    name = f"'{DISTRIBUTION}[{extra}]'" if extra else DISTRIBUTION
    return f"{shlex.quote(sys.executable)} -m pip install {name}"


@contextmanager
def needs_extra(need: str, extra: str, *packages: str) -> Iterator[None]:
    """Around the imports of an extra's packages.

    Args:
        need: What needs which package, for the user.
        extra: Its name.
        packages: Those that it brings: without another one, our own fault shows as it is. Without
            any here, each failed import is a missing extra.

    Raises:
        MissingExtra: With the command that installs it.
    """
    try:
        yield
    except ImportError as error:
        if packages and (error.name or "").partition(".")[0] not in packages:
            raise
        raise MissingExtra(f"{need}: {pip_install(extra)}") from error

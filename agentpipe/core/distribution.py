"""How to install packages missing from this installation of agentpipe."""

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
    """Return the command that installs missing requirements, or an extra, for this Python.

    It names this Python executable, so that pip finds the installed distribution, whether from an
    index or a clone, and does not look up its name in an index.
    """
    name = f"'{DISTRIBUTION}[{extra}]'" if extra else DISTRIBUTION
    return f"{shlex.quote(sys.executable)} -m pip install {name}"


@contextmanager
def needs_extra(need: str, extra: str, *packages: str) -> Iterator[None]:
    """Wrap the imports of an extra's packages.

    Args:
        need: What needs which package, for the message.
        extra: The extra's name.
        packages: Top-level packages that the extra installs. A failed import of any other package
            is our bug and is raised unchanged. If none are given, every failed import counts as a
            missing extra.

    Raises:
        MissingExtra: The message has the install command.
    """
    try:
        yield
    except ImportError as error:
        if packages and (error.name or "").partition(".")[0] not in packages:
            raise
        raise MissingExtra(f"{need}: {pip_install(extra)}") from error

"""How to install what is missing from this installation of agentpipe."""

from __future__ import annotations

import shlex
import sys

DISTRIBUTION = "dramatiq-agentpipe"


def pip_install(extra: str = "") -> str:
    """The command that installs missing requirements, or an extra, for this Python.

    This very Python: pip then finds the installed distribution, from an index or a clone, and asks
    no index for that name.
    """
    name = f"'{DISTRIBUTION}[{extra}]'" if extra else DISTRIBUTION
    return f"{shlex.quote(sys.executable)} -m pip install {name}"

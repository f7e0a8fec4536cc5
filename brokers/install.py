"""Finds a server's program, or installs it."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

from brokers.errors import LaunchError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Debian's RabbitMQ itself; what it puts on the PATH insists on a user of its own.
_FIRST = "/usr/lib/rabbitmq/bin"
_LAST = "/usr/local/sbin:/usr/sbin:/sbin"


def find(name: str, environ: Mapping[str, str]) -> str | None:
    """Where the program ``name`` is, also in the places for administrators."""
    return shutil.which(name, path=f"{_FIRST}:{environ.get('PATH', '/usr/bin:/bin')}:{_LAST}")


def program(name: str, package: str, environ: Mapping[str, str]) -> str:
    """Where the program is; it is installed if need be."""
    found = find(name, environ)
    if not found:
        raise LaunchError(f"{name} is missing: install {package}")
    return found

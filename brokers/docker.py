"""Runs a server in a container if it cannot be installed."""

from __future__ import annotations

import shutil
import subprocess
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from brokers.ports import HOST
from brokers.process import Command

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

_TIMEOUT_S, _PULL_TIMEOUT_S = 60.0, 900.0


@dataclass(frozen=True, slots=True)
class Container:
    """A container; ``docker run`` stays in the foreground and forwards signals.

    Attributes:
        ports: This machine's port to the container's.
        conf: Our configuration file, and its path in the container.
        data: The data folder in the container, on a volume of the container's name.
        variables: For the container's environment.
        arguments: The command, if not the image's own.
    """

    image: str
    ports: Mapping[int, int]
    conf: tuple[Path, str]
    data: str
    variables: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def command(self, name: str, environ: Mapping[str, str]) -> Command:
        """The command that starts the container as ``name``."""
        options = ["--rm", "--name", name, "--volume", f"{name}:{self.data}"]
        options += ["--volume", f"{self.conf[0]}:{self.conf[1]}:ro"]
        for outer, inner in self.ports.items():
            options += ["--publish", f"{HOST}:{outer}:{inner}"]
        for variable, value in self.variables.items():
            options += ["--env", f"{variable}={value}"]
        argv = ["docker", "run", *options, self.image, *self.arguments]
        return Command(argv, environ, orphan_signal="TERM")


def answers(environ: Mapping[str, str]) -> bool:
    """Whether a Docker engine answers."""
    return bool(shutil.which("docker", path=environ.get("PATH"))) and _run(["info"], environ)


def pull(image: str, environ: Mapping[str, str]) -> None:
    """Pull a missing image; if that fails, the start reports why."""
    if not _run(["image", "inspect", image], environ):
        _run(["pull", image], environ, _PULL_TIMEOUT_S)


def kill(name: str, environ: Mapping[str, str]) -> None:
    """Kill the container; its volume stays."""
    _run(["rm", "--force", name], environ)


def drop(name: str, environ: Mapping[str, str]) -> None:
    """Remove its volume."""
    _run(["volume", "rm", "--force", name], environ)


def _run(arguments: list[str], environ: Mapping[str, str], timeout_s: float = _TIMEOUT_S) -> bool:
    try:
        done = subprocess.run(
            ["docker", *arguments],  # noqa: S607 - whichever is on the PATH
            env=dict(environ),
            capture_output=True,
            timeout=timeout_s,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return False
    return done.returncode == 0

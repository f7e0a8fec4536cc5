"""A server in a container, where it cannot be installed."""

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
    """What to run; ``docker run`` stays in the foreground and passes signals on.

    Attributes:
        ports: From this machine's to the container's.
        conf: Our configuration file, and where the container reads it.
        data: Where the container keeps its data; a volume of the container's name.
        variables: For the container's environment.
        arguments: What it runs, where that is not the image's own choice.
    """

    image: str
    ports: Mapping[int, int]
    conf: tuple[Path, str]
    data: str
    variables: Mapping[str, str] = field(default_factory=dict)
    arguments: tuple[str, ...] = ()

    def command(self, name: str, environ: Mapping[str, str]) -> Command:
        """How to start it as ``name``."""
        options = ["--rm", "--name", name, "--volume", f"{name}:{self.data}"]
        options += ["--volume", f"{self.conf[0]}:{self.conf[1]}:ro"]
        for outer, inner in self.ports.items():
            options += ["--publish", f"{HOST}:{outer}:{inner}"]
        for variable, value in self.variables.items():
            options += ["--env", f"{variable}={value}"]
        argv = ["docker", "run", *options, self.image, *self.arguments]
        return Command(argv, environ, orphan_signal="TERM")


def answers(environ: Mapping[str, str]) -> bool:
    """Whether a Docker engine can be used."""
    return bool(shutil.which("docker", path=environ.get("PATH"))) and _run(["info"], environ)


def pull(image: str, environ: Mapping[str, str]) -> None:
    """Fetch what is not here yet; if that fails, starting it says why."""
    if not _run(["image", "inspect", image], environ):
        _run(["pull", image], environ, _PULL_TIMEOUT_S)


def kill(name: str, environ: Mapping[str, str]) -> None:
    """End the container at once; its volume stays."""
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

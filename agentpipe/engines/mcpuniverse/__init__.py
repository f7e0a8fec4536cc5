"""McpUniverseEngine: MCP-Universe's own agents, in a Python of their own.

The package ``mcpuniverse`` cannot share an environment with agentpipe. One process of that Python
imports it once; each agent is a fork of it. What runs there is in ``host``.
"""

from __future__ import annotations

import os
import subprocess
import sys
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_servers import VARIABLE as SERVERS
from agentpipe.config.mcp_servers import read_list
from agentpipe.engines.process.agent import ChildAgent
from agentpipe.engines.process.launcher import PASSED_ON, nursery, passed_on
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.engines.base import Agent

VARIABLE = "AGENTPIPE_MCPUNIVERSE_PYTHON"
# What `make mcpuniverse` makes.
ENVIRONMENT = Path(".venv-mcpuniverse/bin/python")
# After the end of a run its cleanups go on for so long: they undo what it did to the world.
CLEANUP_LIMIT_S = 30.0
PROBE_LIMIT_S = 60.0
_HOST = Path(__file__).parent


class McpUniverseEngine:
    """Builds agents of every type that MCP-Universe has; the whole file is left to it."""

    blocks = False
    has_processes = True

    def __init__(self, config: AgentConfig) -> None:
        self.search: Sequence[Path] = config.search
        self._file, self._text = str(config.file), config.file.read_text()
        try:
            self._python = _python()
            self._servers = _listed_servers()
        except ConfigError as error:
            place = str(config.file), config.line
            raise ConfigError([Problem(p.message, *place) for p in error.problems]) from error

    def build(self) -> Agent:
        """An agent whose process is forked with its first task."""
        opening = {
            "config": self._text,
            "file": self._file,
            "servers": self._servers,
        }
        forks = nursery(self._python, "host", str(_HOST))
        return ChildAgent(forks, opening, _environment(self._python), grace_s=CLEANUP_LIMIT_S)


def _environment(python: str) -> dict[str, str]:
    """What an agent has beside its context; ``python3`` is the one that has its servers."""
    env = passed_on(PASSED_ON)
    return {**env, "PATH": f"{Path(python).parent}:{env.get('PATH', os.defpath)}"}


def _python() -> str:
    """The Python that has mcpuniverse.

    Raises:
        ConfigError: There is none, or the package is not in it.
    """
    named = os.environ.get(VARIABLE)
    places = [Path(named)] if named else [Path.cwd() / ENVIRONMENT, _of_the_checkout()]
    for place in places:
        if place.exists():
            _refuse_without_package(str(place))
            return str(place)
    raise ConfigError(
        f"no Python with mcpuniverse at {places[0]}: run `make mcpuniverse`, or name one that has "
        f"it in {VARIABLE}"
    )


def _of_the_checkout() -> Path:
    """Beside the environment that agentpipe runs in."""
    return Path(sys.prefix).parent / ENVIRONMENT


@cache
def _refuse_without_package(python: str) -> None:
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('mcpuniverse') is None)"
    command = [python, "-c", code]
    try:
        found = subprocess.run(command, timeout=PROBE_LIMIT_S, check=False, capture_output=True)  # noqa: S603 - the user's own Python
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{python} cannot be run: {error}") from error
    if found.returncode:
        raise ConfigError(
            f"{python} has no mcpuniverse: {python} -m pip install mcpuniverse==1.1.3"
        )


def _listed_servers() -> dict[str, dict[str, Any]] | None:
    listed = os.environ.get(SERVERS)
    if not listed:
        return None
    return {name: _theirs(entry) for name, entry in read_list(Path(listed)).items()}


def _theirs(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of our list as MCP-Universe has it."""
    place = entry.get("http")
    if not isinstance(place, dict):
        return dict(entry)
    rest = {name: value for name, value in entry.items() if name != "http"}
    return {**rest, "http_url": place.get("url", ""), "headers": place.get("headers", {})}

"""McpUniverseEngine: MCP-Universe's own agents, in a separate Python environment.

The package ``mcpuniverse`` cannot share an environment with agentpipe. One process of that Python
imports it once, and each agent is a fork of this process, which runs the package ``host``.
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
from agentpipe.config.mcp_universe_prompts import prompt_files
from agentpipe.config.mcp_universe_servers import added_servers
from agentpipe.config.yaml_source import read_text
from agentpipe.engines.mcpuniverse.recorded import RecordedAgent, secrets_in, unrecorded_model
from agentpipe.engines.process.agent import ProcessAgent
from agentpipe.engines.process.launcher import PASSED_ON, passed_on, shared_launcher
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.engines.base import Agent

VARIABLE = "AGENTPIPE_MCPUNIVERSE_PYTHON"
# Created by `make mcpuniverse`.
ENVIRONMENT = Path(".venv-mcpuniverse/bin/python")
# Time for cleanups after a run: they undo its effects on other systems.
CLEANUP_LIMIT_S = 30.0
IMPORT_LIMIT_S = 60.0
_HOST = Path(__file__).parent


class McpUniverseEngine:
    """Builds agents of all MCP-Universe types; MCP-Universe itself reads the config file."""

    blocks = False
    has_processes = True
    judges_answers = True
    records_tokens = True

    def __init__(self, config: AgentConfig) -> None:
        self.search: Sequence[Path] = config.search
        self.secrets = secrets_in(config)
        self._text, self._prompts = read_text(config.file), prompt_files(config)
        try:
            self._python = _python()
            self._servers = _servers()
        except ConfigError as error:
            raise ConfigError(config.problem(p.message) for p in error.problems) from error

    @staticmethod
    def unrecorded_model(config: AgentConfig) -> str:
        """The type of the config's llm that returns no token ids; empty if all return them."""
        return unrecorded_model(config)

    def build(self) -> Agent:
        """Build an agent; its process starts with the first task."""
        return RecordedAgent(self._text, self._process)

    def _process(self, text: str) -> ProcessAgent:
        opening = {"config": text, "prompts": self._prompts, "servers": self._servers}
        launcher = shared_launcher(self._python, "host", str(_HOST))
        return ProcessAgent(launcher, opening, _environment(self._python), grace_s=CLEANUP_LIMIT_S)


def _environment(python: str) -> dict[str, str]:
    """Variables besides the context's; ``python3`` is the Python with MCP-Universe's servers."""
    env = passed_on(PASSED_ON)
    return {**env, "PATH": f"{Path(python).parent}:{env.get('PATH', os.defpath)}"}


def _python() -> str:
    """The path of a Python that has mcpuniverse.

    Raises:
        ConfigError: None was found, or it lacks the package.
    """
    named = os.environ.get(VARIABLE)
    places = (
        [Path(named)]
        if named
        else [Path.cwd() / ENVIRONMENT, Path(sys.prefix).parent / ENVIRONMENT]
    )
    for place in places:
        if place.exists():
            _check_package(str(place))
            return str(place)
    raise ConfigError(
        f"no Python with mcpuniverse at {places[0]}: run `make mcpuniverse`, or set {VARIABLE} to "
        "the path of one"
    )


@cache
def _check_package(python: str) -> None:
    code = "import importlib.util as u, sys; sys.exit(u.find_spec('mcpuniverse') is None)"
    command = [python, "-c", code]
    try:
        found = subprocess.run(command, timeout=IMPORT_LIMIT_S, check=False, capture_output=True)  # noqa: S603 - the user's own Python
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ConfigError(f"{python} cannot be run: {error}") from error
    if found.returncode:
        raise ConfigError(
            f"{python} has no mcpuniverse: run {python} -m pip install mcpuniverse==1.1.3"
        )


def _servers() -> dict[str, dict[str, Any]]:
    """Servers that MCP-Universe's list lacks: agentpipe's additions, and the user's list."""
    listed = os.environ.get(SERVERS)
    entries = {**added_servers(), **(read_list(Path(listed)) if listed else {})}
    return {name: _translated(entry) for name, entry in entries.items()}


def _translated(entry: Mapping[str, Any]) -> dict[str, Any]:
    """An entry of our list in MCP-Universe's format, which does not know ``stateless``."""
    entry = {key: value for key, value in entry.items() if key != "stateless"}
    http = entry.get("http")
    if not isinstance(http, dict):
        return dict(entry)
    rest = {name: value for name, value in entry.items() if name != "http"}
    return {**rest, "http_url": http.get("url", ""), "headers": http.get("headers", {})}

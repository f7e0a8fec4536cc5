"""ChildEngine: any engine whose agents shall live in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from agentpipe.engines.process import child
from agentpipe.engines.process.agent import ChildAgent
from agentpipe.engines.process.launcher import FOR_PYTHON, PASSED_ON, nursery, passed_on
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.engines.base import Agent

PROBE_LIMIT_S = 120.0


class ChildEngine:
    """Builds agents by the config's own engine, in children: this process never imports them."""

    blocks = False

    def __init__(self, config: AgentConfig, env: Mapping[str, str]) -> None:
        """Check the config in a process that ends with it; ``env`` is a context it will have.

        Raises:
            ConfigError: As the engine itself raises it.
        """
        self.search: Sequence[Path] = config.search
        self._config = config
        self._probe(env)

    def build(self) -> Agent:
        """An agent whose child is started with its first task."""
        forks = nursery(sys.executable, child.__name__)
        opening = {"file": str(self._config.file)}
        return ChildAgent(forks, opening, passed_on(PASSED_ON), cwd=str(Path.cwd()))

    def _probe(self, env: Mapping[str, str]) -> None:
        command = [
            sys.executable,
            "-m",
            "agentpipe.engines.process.preflight",
            str(self._config.file),
        ]
        try:
            probe = subprocess.run(  # noqa: S603 - our own program
                command,
                env={**passed_on(FOR_PYTHON), **env},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=PROBE_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._problem(f"it takes longer than {PROBE_LIMIT_S:g} s to import") from error
        if probe.returncode:
            raise self._problem(f"importing it ended its process with {probe.returncode}")
        problems = orjson.loads(probe.stdout.splitlines()[-1])
        if problems:
            raise ConfigError([Problem(**problem) for problem in problems])

    def _problem(self, message: str) -> ConfigError:
        return ConfigError(Problem(message, str(self._config.file), self._config.line))

"""ProcessEngine: runs any engine's agents in processes of their own (``isolation: process``)."""

from __future__ import annotations

import subprocess
import sys
from typing import TYPE_CHECKING

import orjson

from agentpipe.core.rollout import OFF
from agentpipe.engines.process import child
from agentpipe.engines.process.agent import ProcessAgent
from agentpipe.engines.process.launcher import (
    FOR_PYTHON,
    PASSED_ON,
    folder_of_worker,
    passed_on,
    shared_launcher,
)
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.engines.base import Agent

PREFLIGHT_LIMIT_S = 120.0


class ProcessEngine:
    """Builds agents by the config's own engine, in children; this process never imports them."""

    blocks = False

    def __init__(
        self, config: AgentConfig, env: Mapping[str, str], *, record_tokens: str = OFF
    ) -> None:
        """Check the config in a short-lived process with ``env``, one context's.

        Raises:
            ConfigError: The engine refuses the config, or its import fails or hangs.
        """
        self.search: Sequence[Path] = config.search
        self._config, self._record_tokens = config, record_tokens
        self._check(env)

    def build(self) -> Agent:
        """An agent whose child starts with the first task."""
        opening = {"file": str(self._config.file), "record_tokens": self._record_tokens}
        launcher = shared_launcher(sys.executable, child.__name__)
        cwd = folder_of_worker("its agent")
        return ProcessAgent(launcher, opening, passed_on(PASSED_ON), cwd=cwd)

    def _check(self, env: Mapping[str, str]) -> None:
        module = "agentpipe.engines.process.preflight"
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                [sys.executable, "-m", module, str(self._config.file)],
                env=passed_on(FOR_PYTHON),
                input=orjson.dumps(dict(env)),
                capture_output=True,
                timeout=PREFLIGHT_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._problem(f"its import takes over {PREFLIGHT_LIMIT_S:g} s") from error
        if done.returncode:
            raise self._problem(f"importing it ended its process with {done.returncode}")
        problems = orjson.loads(done.stdout.splitlines()[-1])
        if problems:
            raise ConfigError([Problem(**problem) for problem in problems])

    def _problem(self, message: str) -> ConfigError:
        return ConfigError(self._config.problem(message))

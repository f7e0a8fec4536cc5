"""ProcessEngine: runs any engine's agents in separate processes (``isolation: process``)."""

from __future__ import annotations

import os
import subprocess
import sys
from types import MappingProxyType
from typing import TYPE_CHECKING

import orjson

from agentpipe.config.paths import to_json
from agentpipe.core.account import variables_of
from agentpipe.core.masking import shorten
from agentpipe.core.redaction import Redactor, passwords_in
from agentpipe.core.rollout import MESSAGES, OFF
from agentpipe.engines.base import engine_class
from agentpipe.engines.gateway import hidden_keys, model_secrets, model_variables
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
    from agentpipe.core.context import Context
    from agentpipe.engines.base import Agent

PREFLIGHT_LIMIT_S = 120.0
MAX_LAST_CHARS = 500
NO_RECORD = MappingProxyType({"tokens": OFF, "mode": MESSAGES})


class ProcessEngine:
    """Builds agents with the config's own engine, in children; the worker never imports them."""

    blocks = False
    models: Mapping[str, str] | None = None
    secrets: Sequence[str] = ()

    def __init__(
        self, config: AgentConfig, context: Context, *, record: Mapping[str, str] = NO_RECORD
    ) -> None:
        """Check the config in a short-lived process with a context's variables and user.

        If its agents ask models through a gateway, these variables contain none of their real keys.

        Raises:
            ConfigError: The engine rejects the config, or its import fails or hangs.
        """
        self.search: Sequence[Path] = config.search
        self._config, self._record = config, record
        self.secrets = tuple(passwords_in([each.data for each in config.documents]))
        env = context.env
        if record["tokens"] != OFF and hasattr(engine_class(config), "models"):
            self.models = MappingProxyType(model_variables(os.environ))
            self.secrets = (*self.secrets, *model_secrets(self.models))
            env = hidden_keys(env)
        self._check(context, env)

    def build(self) -> Agent:
        """Build an agent; its child starts with the first task."""
        opening = {"file": to_json(self._config.file), "record": dict(self._record)}
        launcher = shared_launcher(sys.executable, child.__name__)
        cwd = folder_of_worker("its agent")
        return ProcessAgent(launcher, opening, passed_on(PASSED_ON), cwd=cwd)

    def _check(self, context: Context, env: Mapping[str, str]) -> None:
        module, account = "agentpipe.engines.process.preflight", context.account
        given = {"env": dict(env), "user": account and account.ids}
        try:
            done = subprocess.run(  # noqa: S603 - our own program
                [sys.executable, "-m", module, str(self._config.file)],
                env=passed_on(FOR_PYTHON) | variables_of(account),
                input=orjson.dumps(given),
                capture_output=True,
                timeout=PREFLIGHT_LIMIT_S,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise self._problem(f"its import takes over {PREFLIGHT_LIMIT_S:g} s") from error
        if done.returncode:
            last = _last_line(done.stderr, context)
            raise self._problem(f"importing it ended its process with {done.returncode}{last}")
        problems = orjson.loads(done.stdout.splitlines()[-1])
        if problems:
            raise ConfigError([Problem(**problem) for problem in problems])

    def _problem(self, message: str) -> ConfigError:
        return ConfigError(self._config.problem(message))


def _last_line(stderr: bytes, context: Context) -> str:
    """The last line of a process's stderr, with the values of its context redacted."""
    lines = stderr.decode(errors="replace").strip().splitlines()
    text = Redactor(context.env.values()).text(lines[-1]) if lines else ""
    return f": {shorten(text, MAX_LAST_CHARS)}" if text else ""

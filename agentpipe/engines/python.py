"""PythonEngine: the user's own class, named in the config as ``module:Class``."""

from __future__ import annotations

import inspect
import os
from types import MappingProxyType
from typing import TYPE_CHECKING, Any

from agentpipe.config.definitions import problem_of_name
from agentpipe.config.imports import locate
from agentpipe.core.did_you_mean import nearest
from agentpipe.core.redaction import passwords_in
from agentpipe.engines.gateway import model_secrets, model_variables
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from agentpipe.config.agent_config import AgentConfig
    from agentpipe.engines.base import Agent


class PythonEngine:
    """Builds agents of the class in ``config.class``; other keys are constructor arguments.

    The class is searched for in the current folder, the config's folder and its parent.
    """

    ends_programs = True
    records_tokens = True
    models: Mapping[str, str] = MappingProxyType({})

    def __init__(self, config: AgentConfig) -> None:
        self.search: Sequence[Path] = config.search
        self._problem_at = config.problem
        self.models = model_variables(os.environ)
        self.secrets = (*model_secrets(self.models), *passwords_in(dict(config.config)))
        reference = _reference(config)
        arguments = {name: value for name, value in config.config.items() if name != "class"}
        self._class = self._import(reference)
        self._arguments = arguments
        self._check(reference)
        self.blocks = not inspect.iscoroutinefunction(getattr(self._class, "execute", None))

    @staticmethod
    def check_unrun(config: AgentConfig) -> None:
        """Check the config as far as possible without importing the class.

        Raises:
            ConfigError: With the file and line.
        """
        if problem := problem_of_name(_reference(config), config.search):
            raise ConfigError(config.problem(problem, "spec", "config", "class"))

    def build(self) -> Agent:
        """Build a new instance; the user's constructor can raise anything."""
        agent: Agent = self._class(**self._arguments)
        return agent

    def _import(self, reference: str) -> Any:
        try:
            return locate(reference, self.search)
        except ConfigError as error:
            raise self._problem(str(error)) from error

    def _check(self, reference: str) -> None:
        if not callable(self._class):
            raise self._problem(f"{reference} must be a class, not {type(self._class).__name__}")
        if inspect.isclass(self._class) and not callable(getattr(self._class, "execute", None)):
            raise self._problem(f"{reference} has no method execute(self, task, context)")
        try:
            inspect.signature(self._class).bind(**self._arguments)
        except TypeError as error:
            unknown = [name for name in self._arguments if name not in self._parameters()]
            key = next(iter(unknown), "class")
            raise self._problem(f"{reference}: {error}{self._hint()}", key) from error

    def _parameters(self) -> list[str]:
        return list(inspect.signature(self._class).parameters)

    def _hint(self) -> str:
        names = self._parameters()
        for argument in self._arguments:
            if argument not in names and (near := nearest(argument, names)):
                return f"; did you mean {near!r}?"
        return f"; it takes {', '.join(names)}" if names else "; it takes no config"

    def _problem(self, message: str, key: str = "class") -> ConfigError:
        return ConfigError(self._problem_at(message, "spec", "config", key))


def _reference(config: AgentConfig) -> str:
    reference = config.config.get("class")
    if isinstance(reference, str) and reference:
        return reference
    needs = 'a python agent needs a class: class: "my_agents:MyAgent"'
    raise ConfigError(config.problem(needs, "spec", "config", "class"))

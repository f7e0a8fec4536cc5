"""Places: where an llm agent's model and servers are, and their credentials, in a context.

The context comes first, then the worker's environment: for the variables that the provider and
the list of servers name, and for no other.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.errors import AgentFailed, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.config.mcp_servers import Catalogue, Server
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.llm.config import LlmSpec

# Servers that need no key get this one; the SDKs insist on some.
NO_KEY = "none"


@dataclass(frozen=True, slots=True, repr=False)
class Access:
    """Where a model is, and the key to it."""

    base_url: str
    key: str


class Places:
    """Looks things up for the agents of one config."""

    def __init__(self, spec: LlmSpec, catalogue: Catalogue, environ: Mapping[str, str]) -> None:
        self._spec, self._catalogue = spec, catalogue
        provider = spec.provider
        names = {*catalogue.names(), *provider.key_names, *provider.url_names}
        self._environ = {name: environ[name] for name in names if environ.get(name)}
        if spec.api_key:
            self._environ[provider.key_names[0]] = spec.api_key

    @property
    def secrets(self) -> tuple[str, ...]:
        """Those of the worker's environment that may get into a run."""
        names = {*self._catalogue.names(), *self._spec.provider.key_names}
        return tuple(self._environ[name] for name in names if name in self._environ)

    def access(self, context: Context) -> Access:
        """The model's address and key.

        Raises:
            AgentFailed: A key is needed and there is none, or nobody knows the address.
        """
        provider = self._spec.provider
        base_url = self._spec.base_url or self._first(provider.url_names, context)
        key = self._first(provider.key_names, context)
        if not base_url and not provider.base_url:
            raise _misconfigured("the model's server is not known: give its base_url")
        if not key and not base_url and not provider.keyless:
            names = " or ".join(provider.key_names)
            raise _misconfigured(
                f"{names} is not set: put it into the context's env, or where the workers run"
            )
        return Access(_with_version(base_url or provider.base_url, provider.name), key or NO_KEY)

    def servers(self, spec: LlmSpec, task: Task, context: Context) -> list[Server]:
        """The servers that this task shall have.

        Raises:
            AgentFailed: One is unknown, or a variable that it wants is not set.
        """
        entries: Any = spec.servers
        if task.use_specified_server:
            # What is started or reached is for the collection's owner to say: a task chooses.
            entries = [_chosen(entry) for entry in task.mcp_servers]
        env = {**self._environ, **context.env}
        try:
            return [self._catalogue.server(entry, env) for entry in entries]
        except ConfigError as error:
            raise _misconfigured(str(error)) from error

    def env_of_tools(self, context: Context) -> dict[str, str]:
        """The context without the key of the model, which no tool needs."""
        hidden = self._spec.provider.key_names
        return {name: value for name, value in context.env.items() if name not in hidden}

    def _first(self, names: tuple[str, ...], context: Context) -> str:
        found: Iterator[str] = (
            value
            for where in (context.env, self._environ)
            for name in names
            if (value := where.get(name))
        )
        return next(found, "")


def _chosen(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {key: entry[key] for key in ("name", "tools", "transport") if key in entry}


def _with_version(base_url: str, provider: str) -> str:
    """Ollama's and local servers' addresses are often given without their API's path."""
    plain = base_url.rstrip("/")
    if provider in {"ollama", "local"} and "/v1" not in plain:
        return f"{plain}/v1"
    return plain


def _misconfigured(text: str) -> AgentFailed:
    return AgentFailed(text, kind="ConfigError")

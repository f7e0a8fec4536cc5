"""Access: addresses and credentials of an llm agent's model and MCP servers.

Values come from the context first, then from the worker's environment. Of the environment, only
variables named by the provider, the list of servers and the agent's own config are read. A task
cannot name any.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

from agentpipe.config.mcp_servers import repeated_names, variables_of
from agentpipe.core.redaction import passwords_in
from agentpipe.engines.models.credentials import NO_KEY
from agentpipe.engines.models.run_url import filled, is_template, refuse_bad_url
from agentpipe.engines.policies import run_policy
from agentpipe.engines.process.launcher import PASSED_ON
from agentpipe.errors import AgentFailed, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.config.mcp_servers import Catalogue, McpServer
    from agentpipe.core.context import Context
    from agentpipe.core.task import Task
    from agentpipe.engines.llm.config import LlmConfig


@dataclass(frozen=True, slots=True, repr=False)
class Endpoint:
    """A model's address and key."""

    base_url: str
    key: str


class Access:
    """Finds addresses and credentials for the agents of one config."""

    def __init__(self, config: LlmConfig, catalogue: Catalogue, environ: Mapping[str, str]) -> None:
        self._config, self._catalogue = config, catalogue
        provider = config.provider
        own = (name for entry in config.servers for name in variables_of(entry))
        self._server_names = {*catalogue.names(), *own}
        names = {*self._server_names, *provider.key_names, *provider.url_names}
        self._environ = {name: environ[name] for name in names if environ.get(name)}
        if config.api_key:
            self._environ[provider.key_names[0]] = config.api_key

    @cached_property
    def secrets(self) -> tuple[str, ...]:
        """Values of the worker's environment that can reach a run; PATH and HOME are not secret.

        Also the passwords in the URLs of the config, of its variables and of the MCP servers.
        """
        names = {*self._server_names, *self._config.provider.key_names} - {*PASSED_ON}
        values = (self._environ[name] for name in names if name in self._environ)
        urls = [self._config.base_url, *map(self._environ.get, self._config.provider.url_names)]
        servers = [*self._config.servers, *self._catalogue.entries()]
        return (*values, *passwords_in([urls, servers]))

    def model(self, task: Task, context: Context) -> Endpoint:
        """The model's endpoint for this task.

        Raises:
            AgentFailed: The key or the address is missing, or the address is wrong.
        """
        provider = self._config.provider
        base_url = self._base_url(task, context)
        key = self._first(provider.key_names, context)
        if run_policy() is not None:  # A policy has its own address and key.
            return Endpoint(base_url or provider.base_url, key or NO_KEY)
        if not base_url and not provider.base_url:
            raise _misconfigured("the model's address is unknown: set base_url")
        if not key and not base_url and not provider.keyless:
            names = " or ".join(provider.key_names)
            raise _misconfigured(
                f"{names} is not set: set it in the context's env or in the workers' environment"
            )
        return Endpoint(with_version(base_url or provider.base_url, provider.name), key or NO_KEY)

    def _base_url(self, task: Task, context: Context) -> str:
        """The base URL that the config or a variable sets for this task; empty if none does."""
        own = self._config.base_url
        if own and is_template(own) and run_policy() is None:
            own = filled(own, task, context.env)
        names = self._config.provider.url_names
        base_url = own or self._first(names, context)
        if base_url and run_policy() is None:
            refuse_bad_url(base_url, "base_url" if own else " or ".join(names))
        return base_url

    def servers(self, task: Task, context: Context) -> list[McpServer]:
        """The servers for this task.

        Raises:
            AgentFailed: A server is unknown, or a variable that it needs is not set.
        """
        entries: Any = self._config.servers
        if task.use_specified_server:
            # A task only selects by name: the collection's owner decides what is started.
            entries = [self._chosen(entry) for entry in task.mcp_servers]
        if repeated := next(repeated_names(entries), ""):
            raise _misconfigured(repeated)
        try:
            return [self._server(entry, context) for entry in entries]
        except ConfigError as error:
            raise _misconfigured(str(error)) from error

    def _chosen(self, entry: Mapping[str, Any]) -> dict[str, Any]:
        """A server that a task names, as the agent or a list defines it, never with more tools."""
        asked = {key: entry[key] for key in ("name", "tools", "transport") if key in entry}
        servers = self._config.servers if self._config.bounds_tasks else ()
        own = next((each for each in servers if each.get("name") == entry.get("name")), {})
        return {**asked, **own, "tools": _both(own.get("tools"), asked.get("tools"))}

    def each_server(self, context: Context) -> Iterator[tuple[str, McpServer | str]]:
        """The place of each of the agent's servers, and the server, or its problem."""
        for index, entry in enumerate(self._config.servers):
            try:
                yield f"servers[{index}]", self._server(entry, context)
            except ConfigError as error:
                yield f"servers[{index}]", str(error)

    def _server(self, entry: Mapping[str, Any], context: Context) -> McpServer:
        return self._catalogue.server(entry, {**self._environ, **context.env})

    def tool_env(self, context: Context) -> dict[str, str]:
        """The context without the model's key, which tools do not need."""
        hidden = self._config.provider.key_names
        return {name: value for name, value in context.env.items() if name not in hidden}

    def _first(self, names: tuple[str, ...], context: Context) -> str:
        found: Iterator[str] = (
            value
            for where in (context.env, self._environ)
            for name in names
            if (value := where.get(name))
        )
        return next(found, "")


def _both(owners: Any, asked: Any) -> Any:
    """The tools in both lists; an empty list stands for all tools."""
    if not owners or not isinstance(asked, list) or not asked:
        return owners or asked
    return [tool for tool in asked if tool in owners] or owners


def with_version(base_url: str, provider: str) -> str:
    """The base URL, with the API's path if users left it out, and without it for Anthropic."""
    plain = base_url.rstrip("/")
    if provider == "anthropic":
        return plain.removesuffix("/v1")
    if provider in {"ollama", "local"} and "/v1" not in plain:
        return f"{plain}/v1"
    return plain


def _misconfigured(text: str) -> AgentFailed:
    return AgentFailed(text, kind="ConfigError", permanent=True)

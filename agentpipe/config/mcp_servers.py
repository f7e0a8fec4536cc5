"""How each MCP server is started or reached, from a list that users can extend.

A list is in MCP-Universe's format (``{name: {"stdio": {"command", "args"}, "env", "sse"/"http":
{"url"}}}``) or the common ``{"mcpServers": {name: {"command", "args", "env"} or {"url", "type",
"headers"}}}``.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.config.lined_json import LinedReader
from agentpipe.config.paths import shown_path
from agentpipe.config.shown_values import place_in, refusal, shown_names, shown_passwords
from agentpipe.config.yaml_source import read_text
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.template import names_in, render
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

VARIABLE = "AGENTPIPE_MCP_SERVERS"
TRANSPORTS = ("stdio", "sse", "http")
MAX_FILE_BYTES = 10 * 1024 * 1024


def _pypi(module: str, *arguments: str) -> dict[str, Any]:
    return {"stdio": {"command": sys.executable, "args": ["-m", module, *arguments]}}


def _npm(package: str, *arguments: str, env: tuple[str, ...] = ()) -> dict[str, Any]:
    entry: dict[str, Any] = {"stdio": {"command": "npx", "args": ["-y", package, *arguments]}}
    return {**entry, "env": {name: f"{{{{{name}}}}}" for name in env}}


def _github(image: str, source: str = "GITHUB_PERSONAL_ACCESS_TOKEN") -> dict[str, Any]:
    name = "GITHUB_PERSONAL_ACCESS_TOKEN"
    start = {"command": "docker", "args": ["run", "-i", "--rm", "-e", name, image]}
    return {"stdio": start, "env": {name: f"{{{{{source}}}}}"}}


def _notion(source: str) -> dict[str, Any]:
    headers = f'{{"Authorization": "Bearer {{{{{source}}}}}", "Notion-Version": "2022-06-28"}}'
    return {**_npm("@notionhq/notion-mcp-server@2.5.2"), "env": {"OPENAPI_MCP_HEADERS": headers}}


def _uvx(package: str, *arguments: str) -> dict[str, Any]:
    return {"stdio": {"command": "uvx", "args": [package, *arguments]}}


def _without_password(entry: dict[str, Any]) -> dict[str, Any]:
    """Wrap a server that takes a URL argument, so that its command line shows no password."""
    start, name = entry["stdio"], "POSTGRES_ADDRESS"
    hide = ["-I", str(Path(__file__).with_name("hide_password.py")), name, "PGPASSWORD"]
    arguments = [*hide, start["command"], *start["args"]]
    return {
        "stdio": {"command": sys.executable, "args": arguments},
        "env": {name: f"{{{{{name}}}}}"},
    }


def _stateless(entry: dict[str, Any]) -> dict[str, Any]:
    return {**entry, "stateless": True}


# Names and variables follow MCP-Universe's list, without the servers in its own package; the last
# four are ours. Packages come from PyPI (installed in the worker's environment, or fetched by uvx)
# or from npm (fetched by npx). Fetched packages are pinned: a new version would run with the
# credentials of contexts, so a person must review it first. ``stateless`` marks servers that keep
# no state between calls: agents share them.
_GITHUB = "ghcr.io/github/github-mcp-server"
_FILES = "@modelcontextprotocol/server-filesystem@2026.8.31"
BUILT_IN: dict[str, dict[str, Any]] = {
    # Its package needs another version of the MCP library, so uv gives it its own environment.
    "calculator": _stateless(_uvx("mcp-server-calculator==0.2.1")),
    "chrome": _npm("chrome-devtools-mcp@1.11.0", "--headless=true", "--isolated=true"),
    "fetch": _stateless(_pypi("mcp_server_fetch", "--ignore-robots-txt")),
    "filesystem": _npm(_FILES, "{{FILESYSTEM_DIRECTORY}}"),
    "filesystem_mcpmark": _npm(_FILES, "{{FILESYSTEM_TEST_DIR}}"),
    "github": _github(f"{_GITHUB}:0.5.0"),
    "github_mcpmark": _github(_GITHUB, "GITHUB_TOKENS"),
    "google-maps": _stateless(
        _npm("@modelcontextprotocol/server-google-maps@0.6.2", env=("GOOGLE_MAPS_API_KEY",))
    ),
    "markitdown": _stateless(_uvx("markitdown-mcp==0.0.1a8")),
    "no_hub": _github(_GITHUB),
    "notion": _notion("NOTION_API_KEY"),
    "notion_mcpmark": _notion("EVAL_NOTION_API_KEY"),
    "paypal": _npm("mcp-remote@0.15.1", "https://mcp.paypal.com/sse"),
    "playwright": _npm("@playwright/mcp@0.0.83", "--headless", "--isolated"),
    "postgres": _without_password(_npm("@modelcontextprotocol/server-postgres@0.6.2")),
    "postgres-pro": {
        **_uvx("postgres-mcp==0.3.0", "--access-mode", "unrestricted"),
        "env": {"DATABASE_URI": "{{POSTGRES_ADDRESS}}"},
    },
    "slack": _npm(
        "@modelcontextprotocol/server-slack@2025.4.25", env=("SLACK_BOT_TOKEN", "SLACK_TEAM_ID")
    ),
    "git": _pypi("mcp_server_git"),
    "memory": _npm("@modelcontextprotocol/server-memory@2026.8.31"),
    "sequential-thinking": _npm("@modelcontextprotocol/server-sequential-thinking@2026.8.31"),
    "time": _stateless(_pypi("mcp_server_time")),
}


@dataclass(frozen=True, slots=True, repr=False)
class McpServer:
    """How to start or reach a server; values can be credentials.

    Attributes:
        command: The program and its arguments; empty for a server with a ``url``.
        tools: The tools that the agent can use; None for all.
        stateless: Whether it keeps no state between calls.
    """

    name: str
    transport: str
    command: tuple[str, ...] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: str | None = None
    url: str = ""
    headers: Mapping[str, str] = field(default_factory=dict)
    tools: frozenset[str] | None = None
    stateless: bool = False

    def __repr__(self) -> str:
        return f"McpServer({self.name!r}, {self.transport!r})"


class Catalogue:
    """All servers that agents can use."""

    def __init__(self, entries: Mapping[str, dict[str, Any]], file: Path | None = None) -> None:
        """Combine the built-in list with ``entries``, which come from ``file``."""
        self._entries = {**BUILT_IN, **entries}
        self._listed, self._file = entries, file

    def entries(self) -> Iterable[dict[str, Any]]:
        """How each server is started or reached."""
        return self._entries.values()

    def names(self) -> Iterator[str]:
        """Yield the variables that entries can use."""
        for entry in self.entries():
            yield from variables_of(entry)

    def problems(self, wanted: Any) -> Iterator[str]:
        """Yield the mistakes in an agent's ``servers``, one sentence each."""
        if not isinstance(wanted, list) or not all(isinstance(each, dict) for each in wanted):
            yield "servers: expected a list of entries such as `- name: calculator`"
            return
        yield from (f"servers: {problem}" for problem in repeated_names(wanted))
        for index, each in enumerate(wanted):
            try:
                self.server(each, None)
            except ConfigError as error:
                yield f"servers[{index}]: {error.problems[0].message}"

    def server(self, wanted: Mapping[str, Any], env: Mapping[str, str] | None) -> McpServer:
        """Return the server that an agent's or task's entry names, with its templates rendered.

        Raises:
            ConfigError: The server is unknown, lacks the transport, or ``env`` lacks a variable.
        """
        name = wanted.get("name")
        if not isinstance(name, str) or not name:
            raise ConfigError("a server needs a name: `- name: calculator`")
        entry = self._entry(wanted)
        transport = _transport(name, wanted, entry)
        if shown := shown_names(entry) or shown_passwords(entry, env or {}):
            raise ConfigError(refusal(name, shown, self._place(name, entry, shown)))
        tools = _names(wanted.get("tools"), f"tools of {name}")
        used = {key: entry[key] for key in (transport, "env", "cwd") if key in entry}
        filled = _filled(used, env or {})
        if env is not None and (missing := sorted(set(names_in(filled)))):
            raise ConfigError(
                f"the MCP server {name!r} needs {', '.join(missing)}: "
                "set it in the context's env, or where the workers run"
            )
        if transport == "stdio":
            server = _by_command(name, filled, tools)
        else:
            server = _by_url(name, transport, filled, tools)
        return replace(server, stateless=_is_stateless(name, wanted, entry))

    def _place(self, name: str, entry: Mapping[str, Any], shown: list[str]) -> str:
        is_listed = self._file is not None and self._listed.get(name) == entry
        return place_in(self._file, name, shown) if self._file and is_listed else ""

    def _entry(self, wanted: Mapping[str, Any]) -> dict[str, Any]:
        """Return the entry itself if it says how to reach the server, else the listed one."""
        name = str(wanted.get("name"))
        own = {key: wanted[key] for key in ("command", "args", "env", "cwd") if key in wanted}
        if "command" in own:
            return _common_entry(own)
        if "url" in wanted:
            return _common_entry(dict(wanted))
        if name in self._entries:
            return {**self._entries[name], **({"env": own["env"]} if "env" in own else {})}
        hint = did_you_mean(name, self._entries, f"add it to the file that {VARIABLE} names")
        raise ConfigError(f"unknown MCP server {name!r}: {hint}")


def repeated_names(wanted: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Yield one sentence per name shared by different entries: tool names include the server's."""
    first: dict[str, Mapping[str, Any]] = {}
    for each in wanted:
        name = each.get("name")
        if isinstance(name, str) and first.setdefault(name, each) != each:
            yield f"two different servers are named {name!r}: give each a name of its own"


def variables_of(entry: Mapping[str, Any]) -> Iterator[str]:
    """Yield an entry's template variables, and those of its ``env`` that can replace a template."""
    yield from names_in(dict(entry))
    own = entry.get("env")
    if isinstance(own, dict):
        yield from (name for name, value in own.items() if any(names_in(value)))


def load_catalogue(path: str | None) -> Catalogue:
    """Return the built-in list, extended by the file at ``path``.

    Raises:
        ConfigError: The file cannot be read, or is not a list of servers.
    """
    return Catalogue(read_list(Path(path)), Path(path)) if path else Catalogue({})


def read_list(path: Path) -> dict[str, dict[str, Any]]:
    """Read the entries of a list in MCP-Universe's format, with the additional transport ``http``.

    Raises:
        ConfigError: The file cannot be read, or is not a list of servers.
    """
    try:
        reader = LinedReader(read_text(path, MAX_FILE_BYTES), shown_path(path))
        entries = _entries_of(reader.read(), reader)
    except ConfigError as error:
        named = [replace(it, message=f"{VARIABLE}: {it.message}") for it in error.problems]
        raise ConfigError(named) from error
    return {
        name: {**_common_entry(entry), "stateless": entry.get("stateless", False)}
        for name, entry in entries.items()
    }


def _entries_of(listed: Any, reader: LinedReader) -> dict[str, dict[str, Any]]:
    if not isinstance(listed, dict):
        raise reader.refusal("expected an object of servers: {name: {...}}")
    common = listed.get("mcpServers")
    entries, place = (common, ("mcpServers",)) if isinstance(common, dict) else (listed, ())
    for name, entry in entries.items():
        if not isinstance(entry, dict):
            raise reader.refusal(f"the entry {name!r} must be an object", (*place, name))
    return entries


def _common_entry(entry: dict[str, Any]) -> dict[str, Any]:
    """Convert an entry from the common format to MCP-Universe's."""
    if entry.get("http_url"):
        return {"http": {"url": entry["http_url"], "headers": entry.get("headers", {})}}
    if "command" in entry:
        start = {"command": entry["command"], "args": entry.get("args", [])}
        rest: dict[str, Any] = {key: entry[key] for key in ("env", "cwd") if key in entry}
        return {"stdio": start, **rest}
    if "url" in entry:
        kind = str(entry.get("type") or entry.get("transport") or "http").replace("_", "-")
        transport = "sse" if kind == "sse" else "http"
        return {transport: {key: entry[key] for key in ("url", "headers") if key in entry}}
    return entry


def _is_stateless(name: str, wanted: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    mark = wanted.get("stateless", entry.get("stateless", False))
    if not isinstance(mark, bool):
        raise ConfigError(f"the MCP server {name!r}: stateless must be true or false")
    return mark


def _filled(entry: dict[str, Any], env: Mapping[str, str]) -> dict[str, Any]:
    """Render the entry; a variable of its ``env`` can be set directly, past its template."""
    filled: dict[str, Any] = render(entry, env)
    if isinstance(own := filled.get("env"), dict):
        given = {name: env[name] for name in own if name in env and any(names_in(own[name]))}
        filled["env"] = {**own, **given}
    return filled


def _transport(name: str, wanted: Mapping[str, Any], entry: Mapping[str, Any]) -> str:
    asked = wanted.get("transport")
    had = [each for each in TRANSPORTS if isinstance(entry.get(each), dict) and entry[each]]
    if "command" in entry.get("sse", {}) and asked == "sse":
        raise ConfigError(
            f"the MCP server {name!r}: only the engine `mcpuniverse` starts servers for sse; "
            "leave out `transport`, or give its url"
        )
    if asked is None and had:
        return had[0]
    if asked in had:
        return str(asked)
    what = f"by {asked!r}" if asked else "at all"
    raise ConfigError(
        f"the MCP server {name!r} cannot be reached {what}: it has {had or 'nothing'}"
    )


def _by_command(name: str, entry: Mapping[str, Any], tools: frozenset[str] | None) -> McpServer:
    start = entry["stdio"]
    if not isinstance(start, dict) or not isinstance(start.get("command"), str):
        raise ConfigError(f"the MCP server {name!r} has no command")
    arguments = start.get("args", [])
    if not isinstance(arguments, list) or not all(isinstance(each, str) for each in arguments):
        raise ConfigError(f"the MCP server {name!r}: args must be a list of strings")
    command = (start["command"], *arguments)
    env = _strings(entry.get("env", {}), f"env of {name}")
    cwd = entry.get("cwd")
    return McpServer(
        name, "stdio", command, env, cwd if isinstance(cwd, str) else None, tools=tools
    )


def _by_url(
    name: str, transport: str, entry: Mapping[str, Any], tools: frozenset[str] | None
) -> McpServer:
    place = entry[transport]
    url = place.get("url") if isinstance(place, dict) else None
    if not isinstance(url, str) or not url.startswith(("http://", "https://")):
        raise ConfigError(f"the MCP server {name!r} has no url for {transport!r}")
    headers = _strings(place.get("headers", {}), f"headers of {name}")
    return McpServer(name, transport, url=url, headers=headers, tools=tools)


def _strings(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(item, str) for item in value.values()):
        raise ConfigError(f"{where}: expected names with strings")
    return value


def _names(value: Any, where: str) -> frozenset[str] | None:
    if value is None:
        return None
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(f"{where}: expected a list of names")
    return frozenset(value) or None

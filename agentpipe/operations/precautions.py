"""Security checks of ``doctor``: how servers are reached and started."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl, urlsplit

from agentpipe.config.mcp_servers import VARIABLE, read_list
from agentpipe.connections.health import ok, warn
from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.connections.health import Finding

_TLS_SCHEMES = ("rediss", "amqps")
_LOCAL_SCHEMES = ("unix", "sqlite")
_BY_TLS = {
    "redis": "rediss://",
    "redis+sentinel": "?tls=yes",
    "amqp": "amqps://",
    "kafka": "?tls=yes",
}
# The options of npx, uvx and docker that take a value.
_WITH_VALUE = ("-p", "--package", "--from", "--with", "--python", "-e", "--env", "-v", "--volume")
_PACKAGE = ("-p", "--package", "--from")
_VERSION = re.compile(r"(?:@|==|:)v?\d")


def transport(role: str, url: str) -> Iterator[Finding]:
    """Whether a password crosses the network in plain text."""
    if without_password(url) == url:
        return
    try:
        parts = urlsplit(url)
    except ValueError:  # Opening the URL reports it.
        return
    options = [name for name, value in parse_qsl(parts.query) if value != "no"]
    is_closed = any(name in ("tls", "cafile") or name.startswith("ssl_") for name in options)
    if is_closed or parts.scheme in (*_TLS_SCHEMES, *_LOCAL_SCHEMES):
        yield ok(f"{role} password", "sent over TLS, or on this machine only")
        return
    how = f": {_BY_TLS[parts.scheme]}" if parts.scheme in _BY_TLS else ""
    advice = f"use TLS{how}; without it everybody on the way reads the password, tasks and results"
    yield warn(f"{role} password", "sent without TLS", advice)


def pinned(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Whether the fetched MCP servers in the user's list have a pinned version."""
    if not (path := environ.get(VARIABLE)):
        return
    try:
        entries = read_list(Path(path))
    except ConfigError as error:
        yield warn("MCP servers", str(error), f"correct the file that {VARIABLE} names")
        return
    loose = sorted(name for name, entry in entries.items() if _is_unbounded(entry))
    if loose:
        advice = "write NAME@1.2.3 for npx, NAME==1.2.3 for uvx, IMAGE:1.2.3 for docker"
        yield warn("MCP servers", f"fetched in any version: {', '.join(loose)}", advice)
    else:
        yield ok("MCP servers", "what is fetched has a version")


def _is_unbounded(entry: Mapping[str, Any]) -> bool:
    start = entry.get("stdio")
    if not isinstance(start, dict):
        return False
    program = Path(str(start.get("command"))).name
    arguments = [str(each) for each in start.get("args") or ()]
    if program == "docker" and arguments[:1] == ["run"]:
        del arguments[0]
    elif program not in ("npx", "uvx"):
        return False
    fetched = _fetched(arguments)
    return bool(fetched) and not _VERSION.search(fetched, 1)


def _fetched(arguments: list[str]) -> str:
    """The package or image: the first argument that is not an option, or an option's value."""
    before = ""
    for each in arguments:
        name, _, value = each.partition("=")
        if before in _PACKAGE:
            return each
        if name in _PACKAGE and value:
            return value
        if not each.startswith("-") and before not in _WITH_VALUE:
            return each
        before = each
    return ""

"""Plugins: brokers, sinks and engines found by entry point, ours like anybody's."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Collection

NOUNS = {
    "agentpipe.brokers": "broker",
    "agentpipe.sinks": "sink",
    "agentpipe.engines": "engine",
}


def load(group: str, name: str) -> Any:
    """The object that the entry point ``name`` of ``group`` refers to.

    Raises:
        ConfigError: Nothing of that name is installed, or it cannot be imported.
    """
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        raise ConfigError(f"no {NOUNS[group]} {name!r} is installed: {_hint(name, found)}")
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{NOUNS[group]} {name!r} cannot be imported: {error}") from error


def _hint(name: str, found: Collection[str]) -> str:
    installed = f"installed: {', '.join(sorted(found))}"
    near = difflib.get_close_matches(name, found, 1)
    return f"did you mean {near[0]!r}?" if near else installed


def load_for_url(group: str, url: str) -> Any:
    """The same, by the scheme of ``url``."""
    try:
        scheme = urlsplit(url).scheme
    except ValueError:  # A bracket of an IPv6 address is missing.
        scheme = ""
    if not scheme:
        raise ConfigError(
            f"{without_password(url)!r} is no URL of a {NOUNS[group]}: "
            "write for example sqlite:///file.db"
        )
    return load(group, scheme)

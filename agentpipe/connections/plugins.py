"""Brokers, sinks and engines, built-in and third-party, found by entry point."""

from __future__ import annotations

from functools import cache
from typing import Any

from agentpipe.connections.url import is_cut_in_user, split_url
from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError

EXAMPLES = {
    "agentpipe.brokers": "redis://localhost:6379/0 or sqlite:///file.db",
    "agentpipe.sinks": "kafka://localhost:9092/topic or sqlite:///file.db",
}
GIVEN_BY = {
    "agentpipe.brokers": "--broker or AGENTPIPE_BROKER",
    "agentpipe.sinks": "--sink or AGENTPIPE_SINK",
}
NOUNS = {
    "agentpipe.brokers": "broker",
    "agentpipe.sinks": "sink",
    "agentpipe.engines": "engine",
}


@cache
def load(group: str, name: str) -> Any:
    """Import the object that the entry point ``name`` of ``group`` refers to; cached.

    Raises:
        ConfigError: No such entry point is installed, or its import fails.
    """
    from importlib.metadata import entry_points

    found = {entry.name: entry for entry in entry_points(group=group)}
    if name not in found:
        raise ConfigError(
            f"no {NOUNS[group]} {name!r} is installed: {did_you_mean(name, sorted(found))}"
        )
    try:
        return found[name].load()
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"{NOUNS[group]} {name!r} cannot be imported: {error}") from error


def load_for_url(group: str, url: str) -> Any:
    """Import the plugin for the scheme of ``url``."""
    if "#" in url:  # The fragment would be dropped silently.
        raise ConfigError(f"{without_password(url)}: write %23 for '#'")
    if is_cut_in_user(url):
        raise ConfigError(
            f"{without_password(url)}: write %2F for '/' and %3F for '?' in a user or password"
        )
    try:
        scheme = split_url(url).scheme if "://" in url else ""
    except ValueError:  # A bracket of an IPv6 address is missing.
        scheme = ""
    if not scheme:
        raise ConfigError(
            f"invalid URL of a {NOUNS[group]} ({GIVEN_BY[group]}): {without_password(url)!r}; "
            f"write for example {EXAMPLES[group]}"
        )
    return load(group, scheme)

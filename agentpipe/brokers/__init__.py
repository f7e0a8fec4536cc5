"""Brokers: the stores that hold tasks. The URL's scheme selects one."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.connections import plugins
from agentpipe.errors import ConfigError, Unreachable

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings


def open_store(settings: Settings) -> Store:
    """Open the store that ``settings.broker`` names; the caller closes it.

    Raises:
        ConfigError: The URL is invalid.
        Unreachable: The URL is valid, but nothing answers there.
    """
    factory = plugins.load_for_url("agentpipe.brokers", settings.broker)
    store: Store = factory(settings.broker, settings)
    return store


def open_watched(settings: Settings) -> Store:
    """Open the store for reading only. An embedded store is read-only and creates no file.

    Raises:
        ConfigError: The URL is invalid, or the file does not exist.
        Unreachable: Nothing answers there.
    """
    factory = plugins.load_for_url("agentpipe.brokers", settings.broker)
    opener = getattr(factory, "watching", factory)
    store: Store = opener(settings.broker, settings)
    return store


def open_to_read(settings: Settings) -> Store:
    """Open the store for commands that only read: a writer that holds its lock does not block them.

    An embedded store whose file is missing or has an older layout is opened to write, which creates
    or upgrades it.

    Raises:
        ConfigError: The URL is invalid.
        Unreachable: The URL is valid, but nothing answers there.
    """
    if hasattr(plugins.load_for_url("agentpipe.brokers", settings.broker), "watching"):
        with suppress(ConfigError, Unreachable):  # The other way reports what is wrong.
            return open_watched(settings)
    return open_store(settings)


def may_have(settings: Settings, capability: type) -> bool:
    """Whether the store that ``settings.broker`` names can have ``capability``; opens nothing.

    Returns True when the factory is not a class and so cannot be checked.

    Raises:
        ConfigError: The URL is invalid.
    """
    factory = plugins.load_for_url("agentpipe.brokers", settings.broker)
    return not isinstance(factory, type) or issubclass(factory, capability)

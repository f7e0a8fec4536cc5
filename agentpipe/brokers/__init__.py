"""Brokers: where tasks wait. A URL chooses one; each module here is one kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.connections import plugins

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings


def open_store(settings: Settings) -> Store:
    """Open the store that ``settings.broker`` names; the caller closes it.

    Raises:
        ConfigError: The URL is wrong.
        Unreachable: It is right, and nothing answers there.
    """
    factory = plugins.load_for_url("agentpipe.brokers", settings.broker)
    store: Store = factory(settings.broker, settings)
    return store


def open_watched(settings: Settings) -> Store:
    """The same store for those who only read; an embedded one cannot write then, nor makes a file.

    Raises:
        ConfigError: The URL is wrong, or there is no such file.
        Unreachable: Nothing answers there.
    """
    factory = plugins.load_for_url("agentpipe.brokers", settings.broker)
    opener = getattr(factory, "watching", factory)
    store: Store = opener(settings.broker, settings)
    return store


def may_have(settings: Settings, capability: type) -> bool:
    """Whether the store that ``settings.broker`` names may have it; nothing is opened.

    Raises:
        ConfigError: The URL is wrong.
    """
    factory = plugins.load_for_url("agentpipe.brokers", settings.broker)
    return not isinstance(factory, type) or issubclass(factory, capability)

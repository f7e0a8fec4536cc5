"""Sinks: the streams that results go to, chosen by URL; each module is one kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.connections import plugins

if TYPE_CHECKING:
    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Sink


def open_sink(settings: Settings) -> Sink:
    """Open the sink that ``settings.sink`` names; the caller closes it.

    Raises:
        ConfigError: The URL is wrong.
        Unreachable: The server does not answer.
    """
    factory = plugins.load_for_url("agentpipe.sinks", settings.sink)
    sink: Sink = factory(settings.sink)
    return sink


def is_searchable(settings: Settings) -> bool:
    """Whether the sink that ``settings.sink`` names is an archive, without connecting to it."""
    return hasattr(plugins.load_for_url("agentpipe.sinks", settings.sink), "search")

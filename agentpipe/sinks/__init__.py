"""Sinks: the streams that results go to, selected by URL; each module is one kind."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.connections import plugins
from agentpipe.sinks.base import ChecksUrl

if TYPE_CHECKING:
    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Searchable, Sink


def open_sink(settings: Settings) -> Sink:
    """Open the sink that ``settings.sink`` names; the caller closes it.

    Raises:
        ConfigError: The URL is invalid.
        Unreachable: The server does not answer.
    """
    factory = plugins.load_for_url("agentpipe.sinks", settings.sink)
    sink: Sink = factory(settings.sink)
    return sink


def refuse_invalid(settings: Settings) -> None:
    """Refuse a sink that is wrong however long one waits: no outage, no file that is yet to come.

    Raises:
        ConfigError: Its scheme is unknown, its URL invalid, or its file not ours.
    """
    kind = plugins.load_for_url("agentpipe.sinks", settings.sink)
    if isinstance(kind, ChecksUrl):
        kind.check(settings.sink)


def is_searchable(settings: Settings) -> bool:
    """Whether the sink of ``settings.sink`` is an archive; does not connect to it."""
    return hasattr(plugins.load_for_url("agentpipe.sinks", settings.sink), "search")


def open_archive(settings: Settings) -> Searchable:
    """Open the searchable sink of ``settings.sink`` for reading; the caller closes it.

    Raises:
        ConfigError: The URL is invalid, or the file is missing.
        Unreachable: It cannot be read.
    """
    factory = plugins.load_for_url("agentpipe.sinks", settings.sink)
    opener = getattr(factory, "archive", factory)
    archive: Searchable = opener(settings.sink)
    return archive

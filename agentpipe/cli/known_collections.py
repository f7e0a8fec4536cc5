"""Refuses the name of a collection that is nowhere: most likely it is misspelt."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.cli.common import collection_file, collections_of, opened_store
from agentpipe.core.did_you_mean import unknown
from agentpipe.errors import AgentpipeError, ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from agentpipe.settings import Settings


def refuse_unknown(args: argparse.Namespace, settings: Settings, name: str | None) -> None:
    """Refuse a name that neither the collection file, nor the broker, nor the sink has.

    Without a readable file any name passes: nothing is there to compare it with.

    Raises:
        ConfigError: With the nearest name.
    """
    if name is None:
        return
    try:
        path = collection_file(args, settings)
        known = {each.name for each in collections_of(args, settings)}
    except ConfigError:
        return
    if name in known or _is_elsewhere(settings, name):
        return
    where = f"in {path}, nor on the broker"
    raise ConfigError(unknown("collection", name, sorted(known), where))


def _is_elsewhere(settings: Settings, name: str) -> bool:
    """A collection may have left its file, and may have been another file's."""
    return any(_elsewhere(settings, name))


def _elsewhere(settings: Settings, name: str) -> Iterator[bool]:
    with suppress(AgentpipeError), opened_store(settings) as store:
        yield any(queue.collection == name for queue in store.stats().queues)
    with suppress(AgentpipeError):
        yield _has_results(settings, name)


def _has_results(settings: Settings, name: str) -> bool:
    from agentpipe.archive import Archive

    with Archive.open(settings) as archive:
        return any(True for _ in archive.results(collection=name))

"""Refuses unknown collection names, which are usually misspelt."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import has_tasks
from agentpipe.cli.opening import collection_file, collections_of, store_to_read
from agentpipe.core.did_you_mean import unknown
from agentpipe.errors import AgentpipeError, ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from agentpipe.settings import Settings


def refuse_unknown_collection(
    args: argparse.Namespace, settings: Settings, name: str | None
) -> None:
    """Refuse a name that is not in the collection file, on the broker or in the sink.

    If the file is not readable and the broker has no names, every name passes: there is nothing to
    compare it with.

    Raises:
        ConfigError: The name is unknown; the message suggests the nearest one.
    """
    if name is None:
        return
    places, known = list[str](), set[str]()
    for place, names in _known(args, settings):
        if name in names:
            return
        places.append(place)
        known |= names
    if places and not _has_results(settings, name):
        raise ConfigError(unknown("collection", name, sorted(known), ", nor ".join(places)))


def _known(args: argparse.Namespace, settings: Settings) -> Iterator[tuple[str, set[str]]]:
    """Yield places with their names; the broker may know collections that the file does not."""
    with suppress(ConfigError):
        path = collection_file(args, settings)
        yield f"in {path}", {each.name for each in collections_of(args, settings)}
    if has_tasks(settings):
        with suppress(AgentpipeError), store_to_read(settings) as store:
            names = {queue.collection for queue in store.stats().queues if queue.collection}
            if names:
                yield "on the broker", names


def _has_results(settings: Settings, name: str) -> bool:
    from agentpipe.archive import Archive

    with suppress(AgentpipeError), Archive.open(settings) as archive:
        return any(True for _ in archive.results(collection=name))
    return False

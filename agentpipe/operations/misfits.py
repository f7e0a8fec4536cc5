"""Misfits: mismatches within a fleet, and between it and a collection file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.records import is_outdated
from agentpipe.brokers.removed import removed_agents
from agentpipe.sending.source import source_of
from agentpipe.worker.claims.configs import configs_in_use, sentences

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.statistics import Stats
    from agentpipe.config.collection import Collection


def misfits_of_fleet(stats: Stats) -> Iterator[str]:
    """One sentence per collection with tasks of removed agents or with different configs."""
    collections = {depth.collection for depth in stats.queues if depth.collection}
    for each in removed_agents(stats, collections):
        yield each.sentence
    yield from sentences(configs_in_use(stats))


def misfits(stats: Stats, collections: Sequence[Collection]) -> Iterator[str]:
    """One sentence per mismatch, for the user who sends with this file or checks it."""
    for each in collections:
        yield from _of_agents(stats, each)
    yield from sentences(configs_in_use(stats), {each.name for each in collections})


def is_behind(stats: Stats, collection: Collection) -> bool:
    """Whether the fleet follows a newer file, so that declaring this one changes no agent."""
    return any(_outdated(stats, collection))


def _of_agents(stats: Stats, collection: Collection) -> Iterator[str]:
    outdated = [*_outdated(stats, collection)]
    kept = None if outdated else {spec.queue for spec in collection.agents}
    for each in removed_agents(stats, [collection.name], kept):
        yield each.sentence
    yield from outdated


def _outdated(stats: Stats, collection: Collection) -> Iterator[str]:
    given = source_of(collection)
    for each in stats.declared:
        of_group = each.collection == collection.name and each.by == "group"
        if given and of_group and is_outdated(given, each.source):
            yield (
                f"{given.place} is older than {each.source.place}, which the fleet follows: "
                f"the agents and limits of {collection.name} stay as they are there"
            )

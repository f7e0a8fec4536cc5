"""Configs: the versions of a collection that its workers and its last sender use."""

from __future__ import annotations

import logging
from collections import defaultdict
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from agentpipe.errors import AgentpipeError
from agentpipe.sending.source import source_of
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from collections.abc import Collection as AnyOf
    from collections.abc import Iterable, Iterator, Mapping

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Source
    from agentpipe.brokers.statistics import Stats
    from agentpipe.config.collection import Collection

MAX_NAMED = 2
_REMEDY = (
    "restart the workers with the file that is meant; two projects on one broker need a "
    "?prefix= each in its URL (SQLite: a file each)"
)

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class ConfigInUse:
    """One version of a collection's config.

    Attributes:
        place: Host and path of the collection file.
        changed_us: Last change of the collection file or the agent config, in Unix microseconds.
        sender: Whether the last sender has this version.
        workers: Names of the live workers that run it.
        differs: Whether the collection also runs, or is sent, with a different version.
    """

    collection: str
    fingerprint: str
    place: str
    changed_us: int
    sender: bool = False
    workers: tuple[str, ...] = field(default=())
    differs: bool = False

    @classmethod
    def of(cls, collection: str, source: Source, *, sender: bool = False) -> ConfigInUse:
        """Build from what a sender or a worker declared."""
        changed_us = max(source.edited_us, source.config_us)
        return cls(collection, source.fingerprint, source.place, changed_us, sender)

    @property
    def shown(self) -> str:
        """Fingerprint, place and users of this version, for display."""
        more = len(self.workers) - MAX_NAMED
        who = ["its last sender"] if self.sender else []
        who += [f"worker {name}" for name in self.workers[:MAX_NAMED]]
        who += [f"{more} more workers"] if more > 0 else []
        return f"{self.fingerprint} of {self.place} ({', '.join(who)})"


def reported(collections: Iterable[Collection]) -> dict[str, tuple[str, str, int]]:
    """A worker's own configs for its heartbeat: fingerprint, place and time of change."""
    sources = ((each.name, source_of(each, serves=True)) for each in collections)
    own = (ConfigInUse.of(name, source) for name, source in sources if source)
    return {it.collection: (it.fingerprint, it.place, it.changed_us) for it in own}


def configs_in_use(stats: Stats) -> list[ConfigInUse]:
    """Configs of all collections; versions of the same collection are marked as differing."""
    return list(_marked([*_of_senders(stats), *_of_workers(stats)]))


def conflicts_at_start(
    stats: Stats, own: Mapping[str, tuple[str, str, int]], name: str
) -> list[str]:
    """Conflicts between a starting worker's ``own`` configs and others, a sentence each."""
    starting = [ConfigInUse(each, *own[each], workers=(name,)) for each in own]
    others = [*_of_senders(stats), *_of_workers(stats), *_of_silent_workers(stats)]
    return sentences(_marked([*others, *starting]), own)


def say_conflicts(store: Store, own: Mapping[str, tuple[str, str, int]], name: str = "") -> None:
    """Log the conflicts; ignore store errors, because whatever runs next reports them."""
    try:
        found = conflicts_at_start(store.stats(), own, name or "starting now")
    except AgentpipeError:
        return
    for sentence in found:
        log.warning("%s", sentence)


def sentences(configs: Iterable[ConfigInUse], collections: AnyOf[str] | None = None) -> list[str]:
    """A sentence per collection whose configs differ; for ``collections``, or for all."""
    by_collection: dict[str, list[ConfigInUse]] = {}
    for each in configs:
        if each.differs and (collections is None or each.collection in collections):
            by_collection.setdefault(each.collection, []).append(each)
    return [
        f"collection {name} has {len(mine)} configs: "
        f"{', and '.join(each.shown for each in mine)}; {_REMEDY}"
        for name, mine in by_collection.items()
    ]


def _of_senders(stats: Stats) -> Iterator[ConfigInUse]:
    for each in stats.declared:
        if each.by == "sender":
            yield ConfigInUse.of(each.collection, each.source, sender=True)


def _of_workers(stats: Stats) -> Iterator[ConfigInUse]:
    for worker in stats.workers:
        for collection, (fingerprint, place, changed_us) in _configs(worker.report).items():
            yield ConfigInUse(collection, fingerprint, place, changed_us, workers=(worker.name,))


def _configs(report: bytes) -> Mapping[str, tuple[str, str, int]]:
    return Heartbeat.decode(report).configs


def _of_silent_workers(stats: Stats) -> Iterator[ConfigInUse]:
    """What the last worker declared, if a live worker has not reported yet."""
    silent = [worker.name for worker in stats.workers if not _configs(worker.report)]
    for each in stats.declared if silent else ():
        if each.by == "worker":
            config = ConfigInUse.of(each.collection, each.source)
            yield replace(config, workers=(silent[0],))


def _marked(configs: Iterable[ConfigInUse]) -> Iterator[ConfigInUse]:
    """Yield each version once, with all its users, and mark whether there are others."""
    merged: dict[tuple[str, str, str], ConfigInUse] = {}
    for each in configs:
        key = (each.collection, each.fingerprint, each.place)
        before = merged.get(key)
        merged[key] = each if before is None else _both(before, each)
    of: defaultdict[str, list[ConfigInUse]] = defaultdict(list)
    for each in merged.values():
        of[each.collection].append(each)
    current = [each for each in merged.values() if not _is_replaced(each, of[each.collection])]
    known: defaultdict[str, set[str]] = defaultdict(set)
    for each in current:
        known[each.collection].update({each.fingerprint} - {""})
    for each in current:
        yield replace(each, differs=len(known[each.collection]) > 1 and each.fingerprint != "")


def _both(one: ConfigInUse, other: ConfigInUse) -> ConfigInUse:
    return replace(
        one,
        sender=one.sender or other.sender,
        workers=tuple(dict.fromkeys((*one.workers, *other.workers))),
        changed_us=max(one.changed_us, other.changed_us),
    )


def _is_replaced(sent: ConfigInUse, configs: Iterable[ConfigInUse]) -> bool:
    """Whether the file was edited after the last send: workers run a later version of it."""
    return not sent.workers and any(
        it.workers
        and (it.collection, it.place) == (sent.collection, sent.place)
        and it.changed_us > sent.changed_us
        for it in configs
    )

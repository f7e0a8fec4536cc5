"""Rows of a table: collections, and the agents of expanded collections."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.brokers.statistics import Tally
from agentpipe.monitoring.history import queue_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterable, Sequence

    from agentpipe.brokers.statistics import QueueDepth
    from agentpipe.monitoring.history import FleetHistory

SORTS = ("name", "waiting", "running", "oldest", "failed", "rate")
# The row for queues without a collection.
NO_COLLECTION = "(no collection)"


@dataclass(frozen=True, slots=True)
class Row:
    """A collection or an agent; None for what the broker cannot know.

    Attributes:
        key: Unique; for an agent, ``collection/queue``.
        queues: The agent's queue, or the collection's queues.
        expanded: Whether rows of its agents follow; None for an agent.
        pause_reason: Why the whole row is paused, if known.
        cooldown_s: How long none of its queues can be claimed from; 0 if one can.
    """

    key: str
    name: str
    collection: str | None
    queues: tuple[str, ...]
    expanded: bool | None
    waiting: int | None
    delayed: int | None
    running: int | None
    concurrency: int
    oldest_s: float | None
    rate: float | None
    tally: Tally
    cooldown_s: float
    paused: bool
    pause_reason: str = ""

    @property
    def targets(self) -> tuple[str, ...]:
        """The names to use in a command: the collection, or agents."""
        return self.queues if self.collection is None else (self.name,)


def rows_of(
    history: FleetHistory, *, expanded: Collection[str], words: str = "", sort: str = SORTS[0]
) -> list[Row]:
    """Sorted rows of collections and agents with all ``words`` in their names or last error."""
    if history.now is None:
        return []
    order = _order(sort)
    agents: dict[str, list[Row]] = defaultdict(list)
    rates = queue_rates(history)
    for depth in history.now.stats.queues:
        if _matches(words, depth):
            agent = _agent(depth, history.now.oldest_s, rates)
            agents[depth.collection or NO_COLLECTION].append(agent)
    rows: list[Row] = []
    collections = [
        _collection(name, its, expanded=name in expanded, rated=bool(rates))
        for name, its in agents.items()
    ]
    for collection in sorted(collections, key=order):
        rows.append(collection)
        if collection.expanded:
            rows += sorted(agents[collection.name], key=order)
    return rows


def _matches(words: str, depth: QueueDepth) -> bool:
    text = f"{depth.collection or NO_COLLECTION} {depth.queue} {depth.tally.error}".lower()
    return all(word in text for word in words.lower().split())


def _order(sort: str) -> Callable[[Row], float]:
    """The sort key: greatest first; for ``name``, the original round-robin order."""
    values: dict[str, Callable[[Row], float | None]] = {
        "name": lambda _: 0,
        "waiting": lambda row: row.waiting,
        "running": lambda row: row.running,
        "oldest": lambda row: row.oldest_s,
        "failed": lambda row: row.tally.failed,
        "rate": lambda row: row.rate,
    }
    value = values[sort]
    return lambda row: -(value(row) or 0)


def _agent(depth: QueueDepth, oldest_s: dict[str, float], rates: dict[str, float]) -> Row:
    return Row(
        key=f"{depth.collection or NO_COLLECTION}/{depth.queue}",
        name=depth.queue,
        collection=depth.collection,
        queues=(depth.queue,),
        expanded=None,
        waiting=depth.waiting,
        delayed=depth.delayed,
        running=depth.running,
        concurrency=depth.concurrency,
        oldest_s=oldest_s.get(depth.queue) if depth.running else None,
        rate=rates.get(depth.queue),
        tally=depth.tally,
        cooldown_s=depth.cooldown_s or 0.0,
        paused=depth.paused,
        pause_reason=depth.pause_reason,
    )


def _collection(name: str, agents: Sequence[Row], *, expanded: bool, rated: bool) -> Row:
    return Row(
        key=name,
        name=name,
        collection=None if name == NO_COLLECTION else name,
        queues=tuple(queue for row in agents for queue in row.queues),
        expanded=expanded,
        waiting=_sum(row.waiting for row in agents),
        delayed=_sum(row.delayed for row in agents),
        running=_sum(row.running for row in agents),
        concurrency=sum(row.concurrency for row in agents),
        oldest_s=max((row.oldest_s for row in agents if row.oldest_s is not None), default=None),
        rate=sum(row.rate or 0.0 for row in agents) if rated else None,
        tally=_total(agents),
        cooldown_s=min((row.cooldown_s for row in agents), default=0.0),
        paused=all(row.paused for row in agents),
        pause_reason=agents[0].pause_reason if all(row.pause_reason for row in agents) else "",
    )


def _total(agents: Sequence[Row]) -> Tally:
    """The sum of the tallies, with the latest error."""
    tallies = [row.tally for row in agents]
    # A sum keeps the error of its last addend that has one, so the youngest must come last.
    tallies.sort(key=lambda tally: tally.error_s or 0.0, reverse=True)
    return sum(tallies, Tally())


def _sum(parts: Iterable[int | None]) -> int | None:
    """The sum; None if any part is unknown."""
    numbers = list(parts)
    return None if None in numbers else sum(number or 0 for number in numbers)

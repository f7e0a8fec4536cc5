"""View: what the person at the terminal has chosen to see, and the rows that follow from it."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentpipe.brokers.base import Tally
from agentpipe.tui.history import queue_rates

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentpipe.brokers.base import QueueDepth
    from agentpipe.tui.history import History

Mode = Literal["table", "filter", "help", "dead", "ask"]
Verb = Literal["pause", "resume", "cancel", "replay", "dead", "quit"]
SORTS = ("name", "waiting", "running", "oldest", "failed", "rate")
# Queues outside any collection stand under this.
NO_COLLECTION = "(no collection)"


@dataclass(frozen=True, slots=True)
class Action:
    """What is to be done; its targets are collections and agents, or dead letters' tasks."""

    verb: Verb
    targets: tuple[str, ...] = ()
    shown: str = ""


@dataclass(frozen=True, slots=True)
class Letter:
    """A dead letter, as it is listed."""

    task_id: str
    queue: str
    outcome: str
    reason: str
    age_s: float


@dataclass(frozen=True, slots=True)
class View:
    """All that keys change.

    Attributes:
        cursor: The key of the row that is chosen, so that it stays there when rows move.
        place: Where it was last, should its row go.
        asked: What is done once that was confirmed.
        letters: The dead letters; None while they are being fetched.
        letter: Which of them is chosen.
        notice: What the last action came to.
    """

    mode: Mode = "table"
    cursor: str = ""
    place: int = 0
    opened: frozenset[str] = frozenset()
    filter: str = ""
    sort: str = SORTS[0]
    asked: Action | None = None
    letters: tuple[Letter, ...] | None = None
    letter: int = 0
    notice: str = ""

    @property
    def looks_at_dead(self) -> bool:
        """Whether dead letters are seen, perhaps behind a question about one."""
        asks = self.asked is not None and self.asked.verb == "replay"
        return self.mode == "dead" or asks


@dataclass(frozen=True, slots=True)
class Row:
    """A collection, or one of its agents; None where the broker cannot know.

    Attributes:
        key: Names the row; an agent's is its queue's name behind its collection's.
        queues: Its queue, or those of the collection.
        opened: Whether its agents follow; None for an agent.
        held_s: For how long nobody claims from any of its queues; 0 if somebody may.
    """

    key: str
    name: str
    collection: str | None
    queues: tuple[str, ...]
    opened: bool | None
    waiting: int | None
    delayed: int | None
    running: int | None
    concurrency: int
    oldest_s: float | None
    rate: float | None
    tally: Tally
    held_s: float
    paused: bool

    @property
    def targets(self) -> tuple[str, ...]:
        """What names it to an operator's command: a collection, or agents."""
        return self.queues if self.collection is None else (self.name,)


def rows_of(history: History, view: View) -> list[Row]:
    """The rows of the table, all of them, in their order."""
    if history.now is None:
        return []
    order = _order(view.sort)
    agents: dict[str, list[Row]] = defaultdict(list)
    rates = queue_rates(history)
    for depth in history.now.stats.queues:
        if _matches(view.filter, depth):
            agent = _agent(depth, history.now.oldest_s, rates)
            agents[depth.collection or NO_COLLECTION].append(agent)
    rows: list[Row] = []
    collections = [
        _collection(name, its, opened=name in view.opened, rated=bool(rates))
        for name, its in agents.items()
    ]
    for collection in sorted(collections, key=order):
        rows.append(collection)
        if collection.opened:
            rows += sorted(agents[collection.name], key=order)
    return rows


def chosen(rows: Sequence[Row], view: View) -> int:
    """The index of the chosen row; 0 where there is none."""
    for index, row in enumerate(rows):
        if row.key == view.cursor:
            return index
    return max(0, min(view.place, len(rows) - 1))


def _matches(wanted: str, depth: QueueDepth) -> bool:
    text = f"{depth.collection or NO_COLLECTION} {depth.queue} {depth.tally.error}".lower()
    return all(word in text for word in wanted.lower().split())


def _order(sort: str) -> Callable[[Row], float]:
    """By name in the order of their rings, else the greatest first."""
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
        opened=None,
        waiting=depth.waiting,
        delayed=depth.delayed,
        running=depth.running,
        concurrency=depth.concurrency,
        oldest_s=oldest_s.get(depth.queue) if depth.running else None,
        rate=rates.get(depth.queue),
        tally=depth.tally,
        held_s=depth.held_s or 0.0,
        paused=depth.paused,
    )


def _collection(name: str, agents: Sequence[Row], *, opened: bool, rated: bool) -> Row:
    errors = [row.tally for row in agents if row.tally.error_s is not None]
    last = min(errors, key=lambda tally: tally.error_s or 0.0, default=Tally())
    tally = Tally(
        sum(row.tally.done for row in agents),
        sum(row.tally.failed for row in agents),
        sum(row.tally.evaluated for row in agents),
        sum(row.tally.passed for row in agents),
        sum(row.tally.usd for row in agents),
        last.error,
        last.error_s,
    )
    return Row(
        key=name,
        name=name,
        collection=None if name == NO_COLLECTION else name,
        queues=tuple(queue for row in agents for queue in row.queues),
        opened=opened,
        waiting=_sum(row.waiting for row in agents),
        delayed=_sum(row.delayed for row in agents),
        running=_sum(row.running for row in agents),
        concurrency=sum(row.concurrency for row in agents),
        oldest_s=max((row.oldest_s for row in agents if row.oldest_s is not None), default=None),
        rate=sum(row.rate or 0.0 for row in agents) if rated else None,
        tally=tally,
        held_s=min((row.held_s for row in agents), default=0.0),
        paused=all(row.paused for row in agents),
    )


def _sum(parts: Iterable[int | None]) -> int | None:
    """None where any part is unknown."""
    total = 0
    for part in parts:
        if part is None:
            return None
        total += part
    return total

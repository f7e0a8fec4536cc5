"""Lists, counts, groups and drops dead letters.

Summaries come in pages, and complete letters only by id, to bound memory.
"""

from __future__ import annotations

import re
import time
from dataclasses import dataclass, replace
from itertools import chain
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from agentpipe.brokers.base import Store
from agentpipe.brokers.capabilities import KeepsDeadLetters, require
from agentpipe.brokers.dead_letter import DeadFilter, DeadPage
from agentpipe.core.portions import portions_of
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from agentpipe.brokers.dead_letter import DeadLetter, DeadSummary

PAGE = 500
WHOLE_AT_ONCE = 20
MAX_GROUPS = 1_000
MAX_SHAPE_CHARS = 200
# Parts that differ between failures of the same kind: words with digits, except status codes.
_ANY = re.compile(r"\b(?!\d{1,3}\b)[\w-]*\d[\w-]*")


@runtime_checkable
class DeadStore(Store, KeepsDeadLetters, Protocol):
    """A store that keeps dead letters."""


def with_dead_letters(store: Store) -> DeadStore:
    """The store as one that keeps dead letters.

    Raises:
        ConfigError: It does not support dead letters.
    """
    return require(store, DeadStore, "keep dead letters")


def page(store: KeepsDeadLetters, wanted: DeadFilter, after: str, limit: int) -> DeadPage:
    """A full page, unless it is the last; the store itself may return short pages."""
    found: list[DeadSummary] = []
    while True:
        part = store.dead_letters(wanted, after, limit - len(found))
        found += part.letters
        if part.after is None or len(found) >= limit:
            return DeadPage(tuple(found), part.after)
        after = part.after


def pages(store: KeepsDeadLetters, wanted: DeadFilter) -> Iterator[Sequence[DeadSummary]]:
    """All letters that exist at the start; later ones may be replays of the same tasks."""
    now = time.time()
    wanted = replace(wanted, until=now if wanted.until is None else min(now, wanted.until))
    after: str | None = ""
    while after is not None:
        part = store.dead_letters(wanted, after, PAGE)
        after = part.after
        yield part.letters


def count(store: KeepsDeadLetters, wanted: DeadFilter) -> int:
    """The number of matches; reads all of them if the store does not count."""
    number = store.count_dead(wanted)
    return sum(map(len, pages(store, wanted))) if number is None else number


def named(store: KeepsDeadLetters, task_ids: Iterable[str]) -> Iterator[Sequence[DeadSummary]]:
    """The dead letters with these ids.

    Raises:
        AgentpipeError: One does not exist; then nothing is returned.
    """
    wanted = list(dict.fromkeys(task_ids))
    parts = portions_of(wanted, WHOLE_AT_ONCE)
    found = [[it.summary for it in store.read_dead(part)] for part in parts]
    missing = set(wanted) - {letter.task_id for letter in chain.from_iterable(found)}
    if missing:
        ids = ", ".join(sorted(missing))
        raise AgentpipeError(
            f"no dead letter or undeliverable result has the id {ids}: see `agentpipe dead list`"
        )
    return iter(found)


def whole(
    store: KeepsDeadLetters, batches: Iterable[Sequence[DeadSummary]]
) -> Iterator[Sequence[DeadLetter]]:
    """Complete letters, with payload and result, a few at a time."""
    for batch in batches:
        for part in portions_of([letter.task_id for letter in batch], WHOLE_AT_ONCE):
            yield store.read_dead(part)


def drop(store: KeepsDeadLetters, batches: Iterable[Sequence[DeadSummary]]) -> int:
    """Delete the letters; returns how many."""
    return sum(store.drop_dead([letter.task_id for letter in batch]) for batch in batches if batch)


@dataclass(slots=True)
class DeadGroup:
    """Dead letters with one outcome and one kind of error.

    Attributes:
        error: Their reason, with ``#`` for the parts that differ.
        first: When the first letter died, in Unix seconds.
        last: When the last letter died, in Unix seconds.
        example: The id of the last letter.
    """

    outcome: str
    error: str
    count: int = 0
    first: float = 0.0
    last: float = 0.0
    example: str = ""

    def add(self, letter: DeadSummary) -> None:
        """Add a letter to the group."""
        self.first = min(self.first, letter.died_at) if self.count else letter.died_at
        if letter.died_at >= self.last:
            self.last, self.example = letter.died_at, letter.task_id
        self.count += 1


def groups(store: KeepsDeadLetters, wanted: DeadFilter) -> list[DeadGroup]:
    """Largest group first; with too many kinds of errors, the rest is grouped by type."""
    found: dict[tuple[str, str], DeadGroup] = {}
    for letter in chain.from_iterable(pages(store, wanted)):
        key = letter.outcome, shape(letter.reason)
        if key not in found and len(found) >= MAX_GROUPS:
            key = letter.outcome, letter.reason.partition(":")[0][:MAX_SHAPE_CHARS]
        found.setdefault(key, DeadGroup(*key)).add(letter)
    return sorted(found.values(), key=lambda group: -group.count)


def shape(reason: str) -> str:
    """A reason with ids and long numbers replaced by ``#``."""
    return _ANY.sub("#", reason[: 2 * MAX_SHAPE_CHARS])[:MAX_SHAPE_CHARS]

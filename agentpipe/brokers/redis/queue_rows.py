"""Queue rows: the queues and their tallies in the replies of ``stats``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS, QueueDepth, Tally

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping, Sequence


class _Row(NamedTuple):
    """A queue, in the order of the reply's values; see stats.lua."""

    name: str
    collection: str
    position: int
    waiting: int
    delayed: int
    running: int
    limit: int
    concurrency: int
    cooldown_s: str
    paused: int
    why: str
    parked: int
    gate: str
    gate_limit: int

    @property
    def has_left(self) -> bool:
        """Whether it is no longer in its collection's group."""
        return bool(self.collection) and self.position < 0

    @property
    def is_shown(self) -> bool:
        """A queue that left its group shows only if it has tasks."""
        return not self.has_left or self.waiting + self.delayed + self.running > 0

    @property
    def place(self) -> tuple[str, int, str]:
        return self.collection, self.position, self.name

    def depth(self, tally: Tally) -> QueueDepth:
        return QueueDepth(
            self.name,
            self.collection or None,
            self.waiting,
            self.delayed,
            self.running,
            self.limit,
            self.concurrency,
            float(self.cooldown_s),
            bool(self.paused),
            tally,
            self.why,
            (self.gate, self.gate_limit) if self.gate else None,
            removed=self.has_left,
            parked=self.parked,
        )


def depths(pages: Iterable[bytes], tallies: Mapping[str, Tally]) -> Iterator[QueueDepth]:
    """Decode the queues of all pages, by place. A queue can be in two pages."""
    found = {row.name: row for page in pages for row in map(_Row._make, _rows(page, 14))}
    for row in sorted(found.values(), key=lambda row: row.place):
        if row.is_shown:
            yield row.depth(tallies.get(row.name, Tally()))


def tallies_of(pages: Iterable[bytes]) -> dict[str, Tally]:
    """Decode the tallies of all pages, by queue."""
    return dict(_tally(row) for page in pages for row in _rows(page, 8))


def _tally(row: Sequence[Any]) -> tuple[str, Tally]:
    name, done, failed, evaluated, passed, usd, error_s, error = row
    since_s = float(error_s) if error_s else None
    text = error[:MAX_LAST_ERROR_CHARS]
    return name, Tally(done, failed, evaluated, float(passed), float(usd), text, since_s)


def _rows(encoded: bytes, width: int) -> Iterator[tuple[Any, ...]]:
    """Split a list in a script's JSON: an empty one is an object, bytes can be invalid UTF-8."""
    values: Sequence[Any] = orjson.loads(encoded.decode(errors="replace"))
    return zip(*[iter(values or ())] * width, strict=True)

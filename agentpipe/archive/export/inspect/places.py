"""Places: which sample of the log a result is, its id and its epoch."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.masking import shorten
from agentpipe.core.run_names import without_run

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.core.result import Result

MAX_ID_CHARS = 200
# A sample's id is part of a path within the zip.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]|(?:^|(?<=/))\.{1,2}(?=/|$)|^/")


@dataclass(frozen=True, slots=True)
class Place:
    """A sample's id and epoch."""

    sample_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a result.

    Attributes:
        number: Its place in the stream.
    """

    number: int
    group: str
    sample_index: int | None


class Places:
    """Gives each sample a place: the last attempt of a sample has it, earlier ones have none."""

    def __init__(self, run: str | None) -> None:
        self._run = run
        # The first task of each chain of retries, by task; and the last attempt, by that.
        self._firsts: dict[str, str] = {}
        self._last: dict[str, _Seen] = {}
        self._number = 0

    def add(self, result: Result) -> None:
        """Take the next result of the stream."""
        before = result.retry_of or result.replay_of
        first = self._firsts.get(before, before) if before else result.task_id
        self._firsts[result.task_id] = first
        seen = _Seen(self._number, result.group_id or first, result.sample_index)
        self._last[first] = seen
        self._number += 1

    def all(self) -> Mapping[int, Place]:
        """The places by the results' numbers in the stream."""
        used: dict[str, set[int]] = {}
        places = {}
        for seen in sorted(self._last.values(), key=lambda it: it.number):
            name = safe_id(without_run(seen.group, self._run))
            epochs = used.setdefault(name, set())
            epoch = _epoch(seen.sample_index, epochs)
            epochs.add(epoch)
            places[seen.number] = Place(name, epoch)
        return places


def _epoch(sample_index: int | None, used: set[int]) -> int:
    """That of the sample, or else the first that is free."""
    wanted = (sample_index or 0) + 1
    if wanted > 0 and wanted not in used:
        return wanted
    return next(epoch for epoch in range(1, len(used) + 2) if epoch not in used)


def safe_id(name: str) -> str:
    """``name``, or something like it that leads out of no folder and is not too long."""
    safe = shorten(_UNSAFE.sub("_", name), MAX_ID_CHARS)
    if safe == name and name:
        return name
    return f"{safe}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"

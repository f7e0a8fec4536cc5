"""Places: the sample id and epoch of each result in the log."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.core.attempts import families
from agentpipe.core.masking import shorten
from agentpipe.core.run_names import without_run

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.core.result import Result

MAX_ID_CHARS = 200
# A sample's id is part of a path in the zip.
_UNSAFE = re.compile(r"[\x00-\x1f\x7f\\]|(?:^|(?<=/))\.{1,2}(?=/|$)|^/")


@dataclass(frozen=True, slots=True)
class SamplePlace:
    """A sample's id and epoch."""

    sample_id: str
    epoch: int


@dataclass(frozen=True, slots=True)
class _Seen:
    """What is kept of a result; implements ``Attempt``.

    Attributes:
        number: Its position in the stream.
        group: None for a task in no group.
    """

    number: int
    task_id: str
    parent: str | None
    finished: float | None
    group: str | None
    sample_index: int | None


class Places:
    """Assigns each sample a place; only the attempt that counts gets it."""

    def __init__(self, run: str | None) -> None:
        self._run = run
        self._seen: list[_Seen] = []

    def add(self, result: Result) -> None:
        """Add the next result of the stream."""
        self._seen.append(
            _Seen(
                len(self._seen),
                result.task_id,
                result.parent,
                result.finished,
                result.group_id,
                result.sample_index,
            )
        )

    def all(self) -> Mapping[int, SamplePlace]:
        """The places by the results' numbers in the stream."""
        used: dict[str, set[int]] = {}
        places = {}
        for first, seen in sorted(self._counting(), key=lambda pair: pair[1].number):
            name = safe_id(without_run(seen.group or first, self._run))
            epochs = used.setdefault(name, set())
            epoch = _epoch(seen.sample_index, epochs)
            epochs.add(epoch)
            places[seen.number] = SamplePlace(name, epoch)
        return places

    def _counting(self) -> Iterator[tuple[str, _Seen]]:
        """The attempts that count, with the ids of their first attempts."""
        tried_again, alone = families(self._seen)
        yield from ((each.task_id, each) for each in alone)
        yield from ((first, family[-1]) for first, family in tried_again.items())


def _epoch(sample_index: int | None, used: set[int]) -> int:
    """The sample's own epoch, or else the first free one."""
    wanted = (sample_index or 0) + 1
    if wanted > 0 and wanted not in used:
        return wanted
    return next(epoch for epoch in range(1, len(used) + 2) if epoch not in used)


def safe_id(name: str) -> str:
    """``name``, or a safe variant that stays inside its folder and is not too long."""
    safe = shorten(_UNSAFE.sub("_", name), MAX_ID_CHARS)
    if safe == name and name:
        return name
    return f"{safe}-{hashlib.blake2b(name.encode(), digest_size=4).hexdigest()}"

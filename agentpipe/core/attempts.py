"""Attempts: which tasks belong to the same sample, and which of them counts.

A retry or a replay is a separate task that names the task it repeats. Of all attempts at one
sample, the one that finished last counts, regardless of its position in the stream.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Attempt(Protocol):
    """The fields that this module reads."""

    @property
    def task_id(self) -> str:
        """The attempt's own id."""

    @property
    def finished(self) -> float | None:
        """Unix seconds when it ended; None if unknown."""

    @property
    def parent(self) -> str | None:
        """The task that this one repeats; None for a first attempt."""


AnyAttempt = TypeVar("AnyAttempt", bound=Attempt)


def families(
    attempts: Sequence[AnyAttempt],
) -> tuple[dict[str, list[AnyAttempt]], list[AnyAttempt]]:
    """Split attempts into families, keyed by the first attempt's id, and single attempts.

    A family holds all attempts at a repeated sample; the last one in its list counts. The second
    return value holds the attempts at samples that were tried only once.
    """
    parents = {each.task_id: each.parent for each in attempts if each.parent}
    if not parents:
        return {}, list(attempts)
    found = {first_of(task_id, parents): list[AnyAttempt]() for task_id in parents}
    alone: list[AnyAttempt] = []
    for each in attempts:
        found.get(first_of(each.task_id, parents), alone).append(each)
    return {first: sorted(family, key=_finished) for first, family in found.items()}, alone


def last_of_each(attempts: Sequence[AnyAttempt]) -> list[AnyAttempt]:
    """Return the attempt that counts for each sample, in no particular order."""
    tried_again, alone = families(attempts)
    return [*alone, *(family[-1] for family in tried_again.values())]


def is_later(this: Attempt, that: Attempt) -> bool:
    """Whether ``this`` counts rather than ``that``, which is earlier in the stream."""
    return _finished(this) >= _finished(that)


def first_of(task_id: str, parents: Mapping[str, str]) -> str:
    """Return the first attempt at a sample; foreign records can refer to each other in a cycle."""
    seen = set[str]()
    while task_id in parents and task_id not in seen:
        seen.add(task_id)
        task_id = parents[task_id]
    return task_id


def _finished(attempt: Attempt) -> float:
    return -math.inf if attempt.finished is None else attempt.finished

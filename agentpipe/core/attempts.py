"""Attempts: which tasks stand for the same sample, and which of them counts.

A retry or a replay is a task of its own that names the one it tries again. Of all attempts at one
sample the one that finished last counts, whatever the order of the stream.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Protocol, TypeVar

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Attempt(Protocol):
    """What is needed of one."""

    @property
    def task_id(self) -> str:
        """Its own."""

    @property
    def finished(self) -> float | None:
        """When it ended, in Unix seconds; None if unknown."""

    @property
    def parent(self) -> str | None:
        """The task that it tries again; None for a first attempt."""


AnyAttempt = TypeVar("AnyAttempt", bound=Attempt)


def families(
    attempts: Sequence[AnyAttempt],
) -> tuple[dict[str, list[AnyAttempt]], list[AnyAttempt]]:
    """The attempts at samples that were tried again, the one that counts last, by the first's id.

    And all others, each of which is a sample alone.
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
    """The attempt of each sample that counts, in an order of no meaning."""
    tried_again, alone = families(attempts)
    return [*alone, *(family[-1] for family in tried_again.values())]


def is_later(this: Attempt, that: Attempt) -> bool:
    """Whether of two attempts, ``that`` of which is earlier in the stream, ``this`` counts."""
    return _finished(this) >= _finished(that)


def first_of(task_id: str, parents: Mapping[str, str]) -> str:
    """The first attempt at a sample; foreign records may name each other in a circle."""
    seen = set[str]()
    while task_id in parents and task_id not in seen:
        seen.add(task_id)
        task_id = parents[task_id]
    return task_id


def _finished(attempt: Attempt) -> float:
    return -math.inf if attempt.finished is None else attempt.finished

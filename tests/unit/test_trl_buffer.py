"""The buffer of an asynchronous trainer: what it returns, drops, and counts as trained."""

from __future__ import annotations

import math
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty

from agentpipe.trl.buffer import Buffer


@dataclass
class Row:
    group_id: int
    model_version: int = 0


def filled(*groups: int, versions: int = 0, most: int | None = None) -> tuple[Buffer, list[str]]:
    """A buffer with two rows of each group."""
    dropped: list[str] = []
    buffer = Buffer(0, most, lambda: dropped.append("one"))
    for group in groups:
        buffer.begin(group, f"g{group}")
        for _ in range(2):
            buffer.put(Row(group, versions))
    return buffer, dropped


def taken(buffer: Buffer) -> list[int]:
    """Take rows until the buffer is empty."""
    found: list[int] = []
    with suppress(Empty):
        while True:
            found.append(buffer.get(timeout=0).group_id)
    return found


def test_a_group_is_used_once_its_first_row_was_trained() -> None:
    buffer, _ = filled(1, 2, 3)
    assert buffer.unused == ["g1", "g2", "g3"]
    for _ in range(4):
        buffer.get()
    assert buffer.unused == ["g1", "g2", "g3"]
    buffer.trained(3)
    assert buffer.unused == ["g3"]
    buffer.trained(100)  # Not more than were taken.
    assert buffer.unused == ["g3"]
    assert taken(buffer) == [3, 3]
    buffer.trained(math.inf)
    assert buffer.unused == []


def test_what_has_become_too_old_is_dropped_by_whole_groups() -> None:
    buffer, dropped = filled(1, 2, 3, most=1)
    assert buffer.get().group_id == 1
    buffer.version = 2
    assert buffer.get().group_id == 1  # Its group was started in time.
    assert taken(buffer) == []
    assert dropped == ["one"] * 2
    assert buffer.unused == ["g1"]


def test_without_a_bound_nothing_is_dropped() -> None:
    buffer, dropped = filled(1, 2)
    buffer.version = 99
    assert taken(buffer) == [1, 1, 2, 2]
    assert not dropped


def test_the_oldest_row_of_a_group_decides() -> None:
    buffer, dropped = filled(most=1)
    for group, name in enumerate(("old", "new")):
        buffer.begin(group, name, oldest=group)
        for version in (1, group):
            buffer.put(Row(group, version))
    buffer.version = 2
    assert taken(buffer) == [1, 1]
    assert (buffer.unused, dropped) == (["new"], ["one"])


def test_a_row_that_trl_drops_is_not_taken_for_one_that_it_trains() -> None:
    buffer, _ = filled(1, 2, 3, versions=1, most=1)
    buffer.drops_behind = 1
    buffer.version = 2
    buffer.get()
    buffer.version = 3  # TRL drops the second row of the first group; the others are too old.
    for _ in range(2):
        buffer.put(Row(4, 3))
    buffer.begin(4, "g4")
    assert taken(buffer) == [1, 4, 4]
    buffer.trained(2)
    assert buffer.unused == []


def test_a_group_without_rows_is_over() -> None:
    buffer, _ = filled(1)
    buffer.begin(2, "g2", oldest=0)
    buffer.leave_out(2)
    assert buffer.unused == ["g1"]

"""Capacity: fewer concurrent runs after a shortage, then a slow recovery."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from agentpipe.worker.running.capacity import (
    LEAKS_AFTER,
    LOG_EVERY_S,
    MAX_RETURNS,
    MAX_TASKS,
    PAUSE_S,
    RECOVER_EVERY_S,
    Capacity,
)

if TYPE_CHECKING:
    from collections.abc import Callable

    import pytest

SLOTS = 100


def free_of(room: Capacity, held: int) -> int:
    room.held = held
    return room.free(SLOTS)


def test_all_slots_are_filled_until_there_is_a_shortage() -> None:
    room = Capacity()
    for held, free in ((0, 100), (30, 70), (100, 0), (101, 0)):
        assert free_of(room, held) == free


def test_a_shortage_pauses_and_halves_what_runs(pass_time: Callable[[float], None]) -> None:
    room = Capacity()
    free_of(room, 60)
    room.reduce("threads")
    assert free_of(room, 0) == 0
    pass_time(PAUSE_S)
    assert free_of(room, 0) == 30
    assert free_of(room, 40) == 0


def test_a_wave_of_failures_is_one_shortage_and_the_next_wave_halves_again(
    pass_time: Callable[[float], None],
) -> None:
    room = Capacity()
    free_of(room, 100)
    for _ in range(90):
        room.reduce("open files")
    for left in (50, 25, 12, 6, 3, 1, 1):
        pass_time(PAUSE_S)
        assert free_of(room, 0) == left
        free_of(room, left)
        room.reduce("open files")


def test_it_recovers_slowly_and_completely(pass_time: Callable[[float], None]) -> None:
    room = Capacity()
    free_of(room, 100)
    room.reduce("memory")
    pass_time(RECOVER_EVERY_S)
    assert free_of(room, 0) == 55
    pass_time(20 * RECOVER_EVERY_S)
    assert free_of(room, 0) == SLOTS
    pass_time(-5 * RECOVER_EVERY_S)
    assert free_of(room, 0) == SLOTS


def test_one_line_says_so_for_a_while(
    pass_time: Callable[[float], None], caplog: pytest.LogCaptureFixture
) -> None:
    room = Capacity()
    free_of(room, 100)
    with caplog.at_level(logging.WARNING):
        for _ in range(5):
            room.reduce("open files")
            pass_time(PAUSE_S)
        (line,) = caplog.messages
        assert "this worker is short of open files: it fills 50 of 100 slots" in line
        pass_time(LOG_EVERY_S)
        room.reduce("open files")
    assert len(caplog.messages) == 2


def test_a_task_goes_back_uncounted_a_few_times_only() -> None:
    room = Capacity()
    room.held = 2
    assert [room.may_return("a") for _ in range(MAX_RETURNS + 2)] == [
        *[True] * MAX_RETURNS,
        False,
        False,
    ]
    assert room.may_return("b")
    for number in range(MAX_TASKS):
        room.may_return(str(number))
    assert room.may_return("a")  # Forgotten: the memory of tasks is bounded.


def test_a_task_that_ran_alone_goes_back_uncounted_once() -> None:
    room = Capacity()
    room.held = 1
    assert [room.may_return("a") for _ in range(2)] == [True, False]


def test_what_is_kept_for_later_runs_is_given_back_once_a_shortage() -> None:
    room, relieved = Capacity(), []
    room.relieve = lambda: relieved.append(1)
    room.free(SLOTS)
    for _ in range(3):
        room.reduce("open files")
    assert relieved == [1]


def test_what_run_after_run_alone_finds_nothing_of_is_leaked(
    pass_time: Callable[[float], None],
) -> None:
    room = Capacity()
    free_of(room, 1)
    for _ in range(LEAKS_AFTER):
        assert not room.leaked
        pass_time(PAUSE_S)
        room.reduce("open files")
    assert room.leaked == "open files"


def test_a_shortage_beside_others_of_the_machine_or_long_ago_is_no_leak(
    pass_time: Callable[[float], None],
) -> None:
    for held, what, apart_s in ((2, "threads", 1.0), (1, "disk space", 1.0), (1, "threads", 40.0)):
        room = Capacity()
        free_of(room, held)
        for _ in range(2 * LEAKS_AFTER):
            pass_time(apart_s)
            room.reduce(what)
        assert not room.leaked

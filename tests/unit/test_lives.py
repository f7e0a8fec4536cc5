"""How long the slot of a dead worker process stays empty."""

from __future__ import annotations

from agentpipe.worker.fleet.lives import (
    MAX_PAUSE_OF_MISTAKES_S,
    MAX_PAUSE_S,
    PAUSE_S,
    SHORT_LIFE_S,
    Lives,
)

SHORT_S, LONG_S = SHORT_LIFE_S / 2, SHORT_LIFE_S


def test_what_has_served_and_is_killed_once_is_replaced_at_once() -> None:
    lives = Lives()
    assert lives.pause_s(SHORT_S, has_served=True, is_mistake=False) == 0
    assert lives.pause_s(LONG_S, has_served=True, is_mistake=False) == 0


def test_short_lives_in_a_row_have_growing_pauses() -> None:
    lives = Lives()
    pauses = [lives.pause_s(SHORT_S, has_served=True, is_mistake=False) for _ in range(6)]
    assert pauses == [0, PAUSE_S, 2 * PAUSE_S, 4 * PAUSE_S, MAX_PAUSE_S, MAX_PAUSE_S]
    lives.pause_s(LONG_S, has_served=True, is_mistake=False)
    assert lives.pause_s(SHORT_S, has_served=True, is_mistake=False) == 0


def test_what_dies_before_it_serves_waits_from_the_first_time_on() -> None:
    lives = Lives()
    pauses = [lives.pause_s(SHORT_S, has_served=False, is_mistake=False) for _ in range(2)]
    assert pauses == [PAUSE_S, 2 * PAUSE_S]


def test_a_mistake_in_a_file_waits_longer_however_late_it_was_found() -> None:
    lives = Lives()
    pauses = [lives.pause_s(LONG_S, has_served=False, is_mistake=True) for _ in range(9)]
    assert (pauses[0], pauses[-1], lives.mistakes) == (PAUSE_S, MAX_PAUSE_OF_MISTAKES_S, 9)
    lives.pause_s(SHORT_S, has_served=True, is_mistake=False)
    assert lives.mistakes == 0

"""What keys do: a pure step from one state to the next."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from rich.text import Text

from agentpipe.brokers.statistics import Tally
from agentpipe.monitoring.rows import SORTS
from agentpipe.tui.keys import names_of, press
from agentpipe.tui.selection import screen_rows, selected_index
from agentpipe.tui.state import Command, DeadRow, EndedRow, ScreenState
from agentpipe.tui.task_rows import TaskRow, chosen_index
from tests.unit.fleets import agent, fleet, history

if TYPE_CHECKING:
    from agentpipe.monitoring.rows import Row

AGENTS = (
    agent("crew_0", waiting=1, running=2, tally=Tally(failed=5)),
    agent("crew_1", waiting=9),
    agent("zoo_0", collection="zoo", waiting=20, tally=Tally(error="OSError: gone", error_s=1.0)),
    agent("loose", collection=None),
)
SEEN = history(fleet(*AGENTS))
LETTERS = tuple(DeadRow(f"t{n}", "crew_0", "crashed", "why", 1.0) for n in range(3))


def rows(state: ScreenState) -> list[Row]:
    return screen_rows(SEEN, state)


def typed(state: ScreenState, *keys: str) -> tuple[ScreenState, Command | None]:
    action = None
    for key in keys:
        state, action = press(state, key, rows(state))
    return state, action


def names(state: ScreenState) -> list[str]:
    return [row.name for row in rows(state)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        (b"qs?", ["q", "s", "?"]),
        (b"\x1b", ["escape"]),
        (b"\r\x7f\x15\x0c", ["enter", "backspace", "clear", "redraw"]),
        ("ü漢".encode(), ["ü", "漢"]),
        (b"\x1b[1;5Cq", ["q"]),  # Another key.
        (b"\x1b[200~hi\x1b[201~", ["h", "i"]),  # A paste.
        (b"\x00\x01\xff\x80", []),
    ],
)
def test_what_a_terminal_sends(data: bytes, expected: list[str]) -> None:
    assert names_of(data) == expected


def test_the_cursor_moves_within_the_rows() -> None:
    assert selected_index(rows(ScreenState()), typed(ScreenState(), "down", "down")[0]) == 2
    assert selected_index(rows(ScreenState()), typed(ScreenState(), "up")[0]) == 0
    assert selected_index(rows(ScreenState()), typed(ScreenState(), "end")[0]) == 2
    assert selected_index(rows(ScreenState()), typed(ScreenState(), "page down", "home")[0]) == 0
    assert press(ScreenState(), "down", []) == (ScreenState(), None)


def test_the_cursor_stays_with_its_row_when_rows_move() -> None:
    state, _ = typed(ScreenState(), "down")
    name = rows(state)[selected_index(rows(state), state)].name
    state = replace(state, sort="waiting")
    assert rows(state)[selected_index(rows(state), state)].name == name


def test_enter_opens_and_closes() -> None:
    state, _ = typed(ScreenState(), "enter")
    assert names(state)[:3] == ["crew", "crew_0", "crew_1"]
    state, _ = typed(state, "enter")
    assert names(state)[:2] == ["crew", "zoo"]
    assert rows(state)[selected_index(rows(state), state)].name == "crew"


TASKS = (
    TaskRow("t-runs", "crew_0", 3.0, "llm gpt"),
    TaskRow("t-done", "crew_0", 9.0, "4", EndedRow("t-done", "ok", 1.0, 0.0, 2.0, "4")),
)


def test_enter_goes_on_to_an_agents_tasks_and_to_one_of_them() -> None:
    state, action = typed(ScreenState(), "enter", "down", "enter")
    assert (state.mode, state.agent) == ("tasks", "crew_0")
    assert action == Command("tasks", ("crew_0",), "crew_0")
    state, _ = press(state, "down", rows(state), TASKS)
    state, action = press(state, "enter", rows(state), TASKS)
    assert (state.mode, state.task_id) == ("task", "t-done")
    assert action == Command("show", ("t-done",), "t-done")
    state = replace(state, page=tuple(Text(str(number)) for number in range(30)))
    for key, line in (("j", 1), ("page down", 11), ("end", 29), ("down", 29), ("home", 0)):
        state, action = press(state, key, rows(state), TASKS)
        assert (state.scroll, action) == (line, None)
    state, _ = press(state, "q", rows(state), TASKS)
    assert (state.mode, state.task_id) == ("tasks", "t-done")
    state, action = press(state, "r", rows(state), TASKS)
    assert action == Command("tasks", ("crew_0",), "crew_0")
    state, _ = press(state, "escape", rows(state), TASKS)
    assert state.mode == "table"


def test_a_task_stays_selected_while_others_come_and_go() -> None:
    state = ScreenState(mode="tasks", agent="crew_0", task_id="t-done", task_index=1)
    assert chosen_index(TASKS[1:], state) == 0
    assert chosen_index(TASKS[:1], state) == 0
    assert chosen_index((), state) == 0


def test_sorting_goes_round_and_keeps_agents_with_their_collection() -> None:
    state = ScreenState(expanded=frozenset({"crew"}))
    state, _ = typed(state, "s")
    assert state.sort == "waiting"
    assert names(state) == ["zoo", "crew", "crew_1", "crew_0", "(no collection)"]
    assert typed(state, *["s"] * (len(SORTS) - 1))[0].sort == SORTS[0]


def test_a_filter_is_typed_kept_and_ended() -> None:
    state, _ = typed(ScreenState(), "/", *"zoq", "backspace", *"o")
    assert (state.mode, state.filter, names(state)) == ("filter", "zoo", ["zoo"])
    kept, action = typed(state, "enter", "q")
    assert (kept.mode, kept.filter, action) == ("table", "zoo", Command("quit"))
    assert typed(state, "escape")[0].filter == ""
    assert typed(state, "enter", "escape")[0].filter == ""
    assert typed(state, "clear")[0].filter == ""
    assert names(replace(ScreenState(), filter="oserror GONE")) == ["zoo"]


def test_letters_in_a_filter_are_no_commands() -> None:
    state, action = typed(ScreenState(), "/", "q", "c", "p")
    assert (state.filter, action) == ("qcp", None)


def test_cancel_asks_and_only_a_yes_does_it() -> None:
    asking, action = typed(ScreenState(), "c")
    assert (asking.mode, action) == ("confirm", None)
    for key in ("n", "escape", "enter", "c", "q", "Y"):
        assert typed(asking, key)[1] is None
        assert typed(asking, key)[0].mode == "table"
    state, action = typed(asking, "y")
    assert action == Command("cancel", ("crew",), "crew")
    assert state.mode == "table"


def test_pause_is_for_what_is_chosen() -> None:
    state, action = typed(ScreenState(), "enter", "down", "down", "p")
    assert action == Command("pause", ("crew_1",), "crew_1")
    paused = [replace(row, paused=True) for row in rows(state)]
    assert press(state, "p", paused)[1] == Command("resume", ("crew_1",), "crew_1")


def test_a_collection_is_paused_as_such_and_resumed_with_all_of_its_agents() -> None:
    state, action = typed(ScreenState(), "p")
    assert action == Command("pause", ("crew",), "crew")
    paused = [replace(row, paused=True) for row in rows(state)]
    assert press(state, "p", paused)[1] == Command("resume", ("crew", "crew_0", "crew_1"), "crew")


def test_dead_letters_are_fetched_chosen_and_replayed_after_a_yes() -> None:
    state, action = typed(ScreenState(), "d")
    assert (state.mode, state.dead, action) == ("dead", None, Command("dead"))
    state = replace(state, dead=LETTERS)
    state, action = typed(state, "down", "down", "down", "r")
    assert (state.mode, action) == ("confirm", None)
    again, action = typed(state, "y")
    assert (again.mode, action) == ("dead", Command("replay", ("t2",), "t2"))
    assert typed(state, "n")[0].mode == "dead"
    assert typed(again, "q") == (replace(again, mode="table"), None)


def test_nothing_is_replayed_where_nothing_is_dead() -> None:
    for letters in (None, ()):
        state = ScreenState(mode="dead", dead=letters)
        assert typed(state, "down", "r")[0].pending is None


def test_any_key_leaves_the_help() -> None:
    state, _ = typed(ScreenState(), "?")
    assert state.mode == "help"
    assert typed(state, "q") == (ScreenState(), None)


def test_a_notice_is_gone_with_the_next_key() -> None:
    assert typed(ScreenState(notice="done"), "x")[0].notice == ""


def test_keys_without_a_meaning_do_nothing() -> None:
    for mode in ("table", "dead"):
        state = ScreenState(mode=mode, dead=LETTERS)
        assert typed(state, "x", "Ü") == (state, None)

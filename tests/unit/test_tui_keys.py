"""What keys do: a pure step from a view to the next one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentpipe.brokers.base import Tally
from agentpipe.tui.keys import names_of, press
from agentpipe.tui.state import SORTS, Action, Letter, Row, View, chosen, rows_of
from tests.unit.fleets import agent, fleet, history

AGENTS = (
    agent("crew_0", waiting=1, running=2, tally=Tally(failed=5)),
    agent("crew_1", waiting=9),
    agent("zoo_0", collection="zoo", waiting=20, tally=Tally(error="OSError: gone", error_s=1.0)),
    agent("loose", collection=None),
)
SEEN = history(fleet(*AGENTS))
LETTERS = tuple(Letter(f"t{n}", "crew_0", "crashed", "why", 1.0) for n in range(3))


def rows(view: View) -> list[Row]:
    return rows_of(SEEN, view)


def typed(view: View, *keys: str) -> tuple[View, Action | None]:
    action = None
    for key in keys:
        view, action = press(view, key, rows(view))
    return view, action


def names(view: View) -> list[str]:
    return [row.name for row in rows(view)]


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x1b[A\x1b[B\x1bOA", ["up", "down", "up"]),
        (b"qs?", ["q", "s", "?"]),
        (b"\x1b", ["escape"]),
        (b"\r\x7f\x15\x0c", ["enter", "backspace", "clear", "redraw"]),
        ("ü漢".encode(), ["ü", "漢"]),
        (b"\x1b[1;5Cq", ["q"]),  # Some other key.
        (b"\x1b[200~hi\x1b[201~", ["h", "i"]),  # A paste.
        (b"\x00\x01\xff\x80", []),
    ],
)
def test_what_a_terminal_sends(data: bytes, expected: list[str]) -> None:
    assert names_of(data) == expected


def test_the_cursor_moves_within_the_rows() -> None:
    assert chosen(rows(View()), typed(View(), "down", "down")[0]) == 2
    assert chosen(rows(View()), typed(View(), "up")[0]) == 0
    assert chosen(rows(View()), typed(View(), "end")[0]) == 2
    assert chosen(rows(View()), typed(View(), "page down", "home")[0]) == 0
    assert press(View(), "down", []) == (View(), None)


def test_the_cursor_stays_with_its_row_when_rows_move() -> None:
    view, _ = typed(View(), "down")
    name = rows(view)[chosen(rows(view), view)].name
    view = replace(view, sort="waiting")
    assert rows(view)[chosen(rows(view), view)].name == name


def test_enter_opens_and_closes() -> None:
    view, _ = typed(View(), "enter")
    assert names(view)[:3] == ["crew", "crew_0", "crew_1"]
    view, _ = typed(view, "down", "enter")  # From one of its agents.
    assert names(view)[:2] == ["crew", "zoo"]
    assert rows(view)[chosen(rows(view), view)].name == "crew"


def test_sorting_goes_round_and_keeps_agents_with_their_collection() -> None:
    view = View(opened=frozenset({"crew"}))
    view, _ = typed(view, "s")
    assert view.sort == "waiting"
    assert names(view) == ["zoo", "crew", "crew_1", "crew_0", "(no collection)"]
    assert typed(view, *["s"] * (len(SORTS) - 1))[0].sort == SORTS[0]


def test_a_filter_is_typed_kept_and_ended() -> None:
    view, _ = typed(View(), "/", *"zoq", "backspace", *"o")
    assert (view.mode, view.filter, names(view)) == ("filter", "zoo", ["zoo"])
    kept, action = typed(view, "enter", "q")
    assert (kept.mode, kept.filter, action) == ("table", "zoo", Action("quit"))
    assert typed(view, "escape")[0].filter == ""
    assert typed(view, "enter", "escape")[0].filter == ""
    assert typed(view, "clear")[0].filter == ""
    assert names(replace(View(), filter="oserror GONE")) == ["zoo"]


def test_letters_in_a_filter_are_no_commands() -> None:
    view, action = typed(View(), "/", "q", "c", "p")
    assert (view.filter, action) == ("qcp", None)


def test_cancel_asks_and_only_a_yes_does_it() -> None:
    asking, action = typed(View(), "c")
    assert (asking.mode, action) == ("ask", None)
    for key in ("n", "escape", "enter", "c", "q", "Y"):
        assert typed(asking, key)[1] is None
        assert typed(asking, key)[0].mode == "table"
    view, action = typed(asking, "y")
    assert action == Action("cancel", ("crew",), "crew")
    assert view.mode == "table"


def test_pause_is_for_what_is_chosen() -> None:
    view, action = typed(View(), "enter", "down", "down", "p")
    assert action == Action("pause", ("crew_1",), "crew_1")
    paused = [replace(row, paused=True) for row in rows(view)]
    assert press(view, "p", paused)[1] == Action("resume", ("crew_1",), "crew_1")


def test_a_collection_is_paused_as_such_and_resumed_with_all_of_its_agents() -> None:
    view, action = typed(View(), "p")
    assert action == Action("pause", ("crew",), "crew")
    paused = [replace(row, paused=True) for row in rows(view)]
    assert press(view, "p", paused)[1] == Action("resume", ("crew", "crew_0", "crew_1"), "crew")


def test_dead_letters_are_fetched_chosen_and_replayed_after_a_yes() -> None:
    view, action = typed(View(), "d")
    assert (view.mode, view.letters, action) == ("dead", None, Action("dead"))
    view = replace(view, letters=LETTERS)
    view, action = typed(view, "down", "down", "down", "r")
    assert (view.mode, action) == ("ask", None)
    again, action = typed(view, "y")
    assert (again.mode, action) == ("dead", Action("replay", ("t2",), "t2"))
    assert typed(view, "n")[0].mode == "dead"
    assert typed(again, "q") == (replace(again, mode="table"), None)


def test_nothing_is_replayed_where_nothing_is_dead() -> None:
    for letters in (None, ()):
        view = View(mode="dead", letters=letters)
        assert typed(view, "down", "r")[0].asked is None


def test_any_key_leaves_the_help() -> None:
    view, _ = typed(View(), "?")
    assert view.mode == "help"
    assert typed(view, "q") == (View(), None)


def test_a_notice_is_gone_with_the_next_key() -> None:
    assert typed(View(notice="done"), "x")[0].notice == ""


def test_keys_without_a_meaning_do_nothing() -> None:
    for mode in ("table", "dead"):
        view = View(mode=mode, letters=LETTERS)
        assert typed(view, "x", "Ü") == (view, None)

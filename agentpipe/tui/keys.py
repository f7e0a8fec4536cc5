"""Keys: what a terminal sends as names of keys, and what each key does to the view."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.tui.state import SORTS, Action, chosen

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.tui.state import Mode, Row, View

Step = tuple["View", Action | None]
PAGE = 10
MAX_FILTER = 60
_SEQUENCES = {
    b"\x1b[A": "up",
    b"\x1b[B": "down",
    b"\x1bOA": "up",
    b"\x1bOB": "down",
    b"\x1b[5~": "page up",
    b"\x1b[6~": "page down",
    b"\x1b[H": "home",
    b"\x1b[F": "end",
    b"\x1bOH": "home",
    b"\x1bOF": "end",
    b"\x1b[1~": "home",
    b"\x1b[4~": "end",
    b"\r": "enter",
    b"\n": "enter",
    b"\x7f": "backspace",
    b"\x08": "backspace",
    b"\x0c": "redraw",
    b"\x15": "clear",
    b"\x1b": "escape",
}
# A sequence of the terminal's, whether known or not; else one character.
_TOKEN = re.compile(
    rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO.|[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*", re.DOTALL
)
_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -PAGE, "page down": PAGE}
_FAR = 1_000_000
_ENDS = {"home": -_FAR, "g": -_FAR, "end": _FAR, "G": _FAR}


def names_of(data: bytes) -> list[str]:
    """The keys that were pressed; those that are not known are left out."""
    names = []
    for token in _TOKEN.findall(data):
        name = _SEQUENCES.get(token) or token.decode(errors="ignore")
        if token in _SEQUENCES or name.isprintable():
            names.append(name)
    return [name for name in names if name]


def press(view: View, key: str, rows: Sequence[Row]) -> Step:
    """What the view is after a key, and what is to be done besides."""
    view = replace(view, notice="")
    modes = {"filter": _in_filter, "help": _in_help, "dead": _in_dead, "ask": _in_question}
    return modes.get(view.mode, _in_table)(view, key, rows)


def _in_table(view: View, key: str, rows: Sequence[Row]) -> Step:
    if (by := _MOVES.get(key, _ENDS.get(key))) is not None:
        return _moved(view, by, rows), None
    if key in ("p", "c") and rows:
        return _change(view, key, rows[chosen(rows, view)])
    if key == "enter" and rows:
        return _toggled(view, rows[chosen(rows, view)]), None
    return _elsewhere(view, key)


def _elsewhere(view: View, key: str) -> Step:
    if key == "q":
        return view, Action("quit")
    if key == "s":
        following = (SORTS.index(view.sort) + 1) % len(SORTS)
        return replace(view, sort=SORTS[following]), None
    if key in ("d", "r"):
        return replace(view, mode="dead", letters=None, letter=0), Action("dead")
    if key == "escape":
        return replace(view, filter=""), None
    modes: dict[str, Mode] = {"/": "filter", "?": "help", "h": "help"}
    return replace(view, mode=modes.get(key, view.mode)), None


def _moved(view: View, by: int, rows: Sequence[Row]) -> View:
    if not rows:
        return view
    place = max(0, min(len(rows) - 1, chosen(rows, view) + by))
    return replace(view, cursor=rows[place].key, place=place)


def _toggled(view: View, row: Row) -> View:
    """Open a collection or close it; from an agent, close its own."""
    name = row.name if row.opened is not None else row.key.partition("/")[0]
    return replace(view, opened=view.opened ^ {name}, cursor=name)


def _change(view: View, key: str, row: Row) -> Step:
    if key == "c":
        return _asking(view, Action("cancel", row.targets, row.name)), None
    if not row.paused:
        return view, Action("pause", row.targets, row.name)
    # A collection runs again as a whole, also where its agents were paused one by one.
    return view, Action("resume", tuple(dict.fromkeys(row.targets + row.queues)), row.name)


def _asking(view: View, action: Action) -> View:
    return replace(view, mode="ask", asked=action)


def _in_question(view: View, key: str, _rows: Sequence[Row]) -> Step:
    """Only a clear yes counts."""
    back: Mode = "dead" if view.looks_at_dead else "table"
    answered = replace(view, mode=back, asked=None)
    if key == "y":
        return answered, view.asked
    return replace(answered, notice="nothing was changed"), None


def _in_filter(view: View, key: str, _rows: Sequence[Row]) -> Step:
    if key == "enter":
        return replace(view, mode="table"), None
    if key == "escape":
        return replace(view, mode="table", filter=""), None
    if key == "backspace":
        return replace(view, filter=view.filter[:-1]), None
    if key == "clear":
        return replace(view, filter=""), None
    if len(key) == 1 and len(view.filter) < MAX_FILTER:
        return replace(view, filter=view.filter + key), None
    return view, None


def _in_help(view: View, key: str, _rows: Sequence[Row]) -> Step:
    if key == "redraw":
        return view, None
    return replace(view, mode="table"), None


def _in_dead(view: View, key: str, _rows: Sequence[Row]) -> Step:
    letters = view.letters or ()
    if (by := _MOVES.get(key, _ENDS.get(key))) is not None:
        place = max(0, min(len(letters) - 1, view.letter + by))
        return replace(view, letter=place), None
    if key == "r" and letters:
        letter = letters[min(view.letter, len(letters) - 1)]
        return _asking(view, Action("replay", (letter.task_id,), letter.task_id)), None
    if key in ("q", "d", "escape"):
        return replace(view, mode="table"), None
    return view, None

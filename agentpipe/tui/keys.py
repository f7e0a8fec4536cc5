"""Decodes terminal input into key names, and defines what each key does. Pure."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.monitoring.rows import SORTS
from agentpipe.tui.selection import selected_index
from agentpipe.tui.state import Command
from agentpipe.tui.task_rows import chosen_index

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.monitoring.rows import Row
    from agentpipe.tui.state import Mode, ScreenState
    from agentpipe.tui.task_rows import TaskRow

Step = tuple["ScreenState", Command | None]
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
# An escape sequence, known or not, or one character.
_TOKEN = re.compile(
    rb"\x1b\[[0-9;?]*[ -/]*[@-~]|\x1bO.|[\x00-\x7f]|[\xc0-\xff][\x80-\xbf]*", re.DOTALL
)
_MOVES = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -PAGE, "page down": PAGE}
_FAR = 1_000_000
_ENDS = {"home": -_FAR, "g": -_FAR, "end": _FAR, "G": _FAR}


def names_of(data: bytes) -> list[str]:
    """The names of the pressed keys; unknown keys are dropped."""
    names = []
    for token in _TOKEN.findall(data):
        name = _SEQUENCES.get(token) or token.decode(errors="ignore")
        if token in _SEQUENCES or name.isprintable():
            names.append(name)
    return [name for name in names if name]


def press(state: ScreenState, key: str, rows: Sequence[Row], tasks: Sequence[TaskRow] = ()) -> Step:
    """The state after a key, and the command it submits; ``tasks`` are the listed tasks."""
    state = replace(state, notice="")
    if state.mode == "tasks":
        return _in_tasks(state, key, tasks)
    if state.mode == "task":
        return _in_task(state, key), None
    modes = {"filter": _in_filter, "help": _in_help, "dead": _in_dead, "confirm": _in_question}
    return modes.get(state.mode, _in_table)(state, key, rows)


def _in_table(state: ScreenState, key: str, rows: Sequence[Row]) -> Step:
    if (by := _MOVES.get(key, _ENDS.get(key))) is not None:
        return _moved(state, by, rows), None
    if key in ("p", "c") and rows:
        return _change(state, key, rows[selected_index(rows, state)])
    if key == "enter" and rows:
        return _opened(state, rows[selected_index(rows, state)])
    return _without_row(state, key)


def _without_row(state: ScreenState, key: str) -> Step:
    if key == "q":
        return state, Command("quit")
    if key == "s":
        following = (SORTS.index(state.sort) + 1) % len(SORTS)
        return replace(state, sort=SORTS[following]), None
    if key in ("d", "r"):
        return replace(state, mode="dead", dead=None, dead_index=0), Command("dead")
    if key == "escape":
        return replace(state, filter=""), None
    modes: dict[str, Mode] = {"/": "filter", "?": "help", "h": "help"}
    return replace(state, mode=modes.get(key, state.mode)), None


def _moved(state: ScreenState, by: int, rows: Sequence[Row]) -> ScreenState:
    if not rows:
        return state
    index = max(0, min(len(rows) - 1, selected_index(rows, state) + by))
    return replace(state, selected=rows[index].key, last_index=index)


def _opened(state: ScreenState, row: Row) -> Step:
    """Expand or collapse a collection; list the tasks of an agent."""
    if row.expanded is not None:
        return replace(state, expanded=state.expanded ^ {row.name}, selected=row.name), None
    listed = replace(
        state, mode="tasks", agent=row.name, ended=None, no_results="", task_id="", task_index=0
    )
    return listed, Command("tasks", (row.name,), row.name)


def _change(state: ScreenState, key: str, row: Row) -> Step:
    if key == "c":
        return _confirm(state, Command("cancel", row.targets, row.name)), None
    if not row.paused:
        return state, Command("pause", row.targets, row.name)
    # Resume all agents of the collection too, including those that were paused one by one.
    return state, Command("resume", tuple(dict.fromkeys(row.targets + row.queues)), row.name)


def _confirm(state: ScreenState, command: Command) -> ScreenState:
    return replace(state, mode="confirm", pending=command)


def _in_question(state: ScreenState, key: str, _rows: Sequence[Row]) -> Step:
    """Answer a confirmation; only ``y`` confirms."""
    back: Mode = "dead" if state.shows_dead else "table"
    after = replace(state, mode=back, pending=None)
    if key == "y":
        return after, state.pending
    return replace(after, notice="nothing changed"), None


def _in_filter(state: ScreenState, key: str, _rows: Sequence[Row]) -> Step:
    if key == "enter":
        return replace(state, mode="table"), None
    if key == "escape":
        return replace(state, mode="table", filter=""), None
    if key == "backspace":
        return replace(state, filter=state.filter[:-1]), None
    if key == "clear":
        return replace(state, filter=""), None
    if len(key) == 1 and len(state.filter) < MAX_FILTER:
        return replace(state, filter=state.filter + key), None
    return state, None


def _in_help(state: ScreenState, key: str, _rows: Sequence[Row]) -> Step:
    if key == "redraw":
        return state, None
    return replace(state, mode="table"), None


def _in_tasks(state: ScreenState, key: str, tasks: Sequence[TaskRow]) -> Step:
    if key in ("q", "escape"):
        return replace(state, mode="table"), None
    if key == "r":
        return state, Command("tasks", (state.agent,), state.agent)
    if not tasks:
        return state, None
    index = chosen_index(tasks, state)
    if (by := _MOVES.get(key, _ENDS.get(key))) is not None:
        index = max(0, min(len(tasks) - 1, index + by))
        return replace(state, task_id=tasks[index].task_id, task_index=index), None
    if key == "enter":
        task_id = tasks[index].task_id
        shown = replace(state, mode="task", task_id=task_id, page=None, scroll=0)
        return shown, Command("show", (task_id,), task_id)
    return state, None


def _in_task(state: ScreenState, key: str) -> ScreenState:
    """Scroll or close a task's page; scrolling stops at the last line."""
    if key in ("q", "escape"):
        return replace(state, mode="tasks", page=None)
    by = PAGE if key == " " else _MOVES.get(key, _ENDS.get(key, 0))
    last = max(0, len(state.page or ()) - 1)
    return replace(state, scroll=max(0, min(last, state.scroll + by)))


def _in_dead(state: ScreenState, key: str, _rows: Sequence[Row]) -> Step:
    dead = state.dead or ()
    if (by := _MOVES.get(key, _ENDS.get(key))) is not None:
        index = max(0, min(len(dead) - 1, state.dead_index + by))
        return replace(state, dead_index=index), None
    if key == "r" and dead:
        letter = dead[min(state.dead_index, len(dead) - 1)]
        return _confirm(state, Command("replay", (letter.task_id,), letter.task_id)), None
    if key in ("q", "d", "escape"):
        return replace(state, mode="table"), None
    return state, None

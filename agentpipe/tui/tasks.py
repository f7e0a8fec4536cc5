"""The screens that Enter opens: the tasks of an agent, and the page of one task."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from agentpipe.monitoring import numbers
from agentpipe.tui.panel import Panel
from agentpipe.tui.table import (
    FAINT,
    STRONG,
    Column,
    fill,
    header,
    highlight,
    outcome_style,
    plain,
    row,
    visible,
)
from agentpipe.tui.task_rows import chosen_index, running_rows, task_rows

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.monitoring.history import Snapshot
    from agentpipe.tui.state import ScreenState
    from agentpipe.tui.task_rows import TaskRow


def agent_tasks(
    now: Snapshot | None, state: ScreenState, clock_s: float, width: int, height: int
) -> list[Text]:
    """The list of one agent's tasks."""
    rows = task_rows(now, state, clock_s)
    columns = [Column("task", max(16, min(60, width // 3)), "left"), Column("state", 11, "left")]
    columns = fill([*columns, Column("time", 11), Column("reward", 6)], "what", width)
    lines = [_summary(now, state), header(columns)]
    at = chosen_index(rows, state)
    for index in visible(len(rows), at, height - len(lines) - 1):
        lines.append(row(columns, _values(rows[index])))
        if index == at:
            highlight(lines[-1], width)
    return [*lines, _remark(state, rows)]


def running_tasks(now: Snapshot, width: int) -> Panel:
    """The oldest runs of the whole fleet."""
    columns = [Column("oldest runs", max(16, min(60, width // 3)), "left")]
    columns = fill([*columns, Column("agent", 24, "left"), Column("age", 8)], "what", width)
    return Panel("runs", columns, [partial(_running, each) for each in running_rows(now)])


def _running(each: TaskRow) -> list[tuple[str, str]]:
    return [
        (plain(each.task_id, 200), ""),
        (plain(each.queue, 80), ""),
        (numbers.duration(each.age_s), ""),
        (plain(each.said, 200), FAINT),
    ]


def task_page(state: ScreenState, height: int) -> list[Text]:
    """The visible part of the page that ``show`` prints."""
    if state.page is None:
        return [Text("fetching ...", FAINT)]
    return list(state.page[state.scroll : state.scroll + height])


def _summary(now: Snapshot | None, state: ScreenState) -> Text:
    queues = now.stats.queues if now else ()
    line = Text.assemble((plain(state.agent, 80), STRONG))
    for depth in (each for each in queues if each.queue == state.agent):
        running = f"{numbers.count(depth.running)}/{numbers.count(depth.concurrency)}"
        waits = f"{numbers.count(depth.waiting)} waiting, {numbers.count(depth.delayed)} delayed"
        line.append(f"  {running} running, {waits}", FAINT)
    return line


def _values(each: TaskRow) -> list[tuple[str, str]]:
    name = (plain(each.task_id, 200), "")
    if each.ended is None:
        age, said = numbers.duration(each.age_s), plain(each.said, 400) if each.said else ""
        return [name, ("running", STRONG), (age, ""), ("", ""), (said, "")]
    ended = each.ended
    reward = numbers.NONE if ended.reward is None else f"{ended.reward:.3g}"
    took = f"in {numbers.duration(ended.took_s)}, " if ended.took_s is not None else ""
    said = plain(ended.said, 400) if ended.said else ""
    return [
        name,
        (plain(ended.outcome, 20), outcome_style(ended.outcome)),
        (f"{numbers.duration(each.age_s)} ago", FAINT),
        (reward, ""),
        (f"{took}{said}", FAINT),
    ]


def _remark(state: ScreenState, rows: Sequence[TaskRow]) -> Text:
    if state.ended is None:
        return Text("fetching what ended last ...", FAINT)
    if state.no_results:
        return Text(plain(state.no_results, 400), FAINT)
    return Text("" if rows else "no task is known to run, and none has ended", FAINT)

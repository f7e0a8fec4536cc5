"""The tables: collections and agents, runs, workers, last errors, dead letters."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from rich.text import Text

from agentpipe.monitoring import numbers
from agentpipe.monitoring.rows import SORTS
from agentpipe.tui.chart import chart
from agentpipe.tui.loop_panel import loops
from agentpipe.tui.panel import Panel
from agentpipe.tui.run_panel import contexts, runs
from agentpipe.tui.selection import screen_rows, selected_index
from agentpipe.tui.table import (
    BAD,
    FAINT,
    STRONG,
    WARN,
    Column,
    fill,
    header,
    highlight,
    plain,
    row,
    visible,
)
from agentpipe.tui.tasks import running_tasks

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.statistics import QueueDepth, WorkerSeen
    from agentpipe.monitoring.history import FleetHistory, Snapshot
    from agentpipe.monitoring.rows import Row
    from agentpipe.tui.state import ScreenState
    from agentpipe.worker.claims.heartbeat import Heartbeat

WIDE = 110
# A worker sends three heartbeats per lease; the lease is 30 s by default.
SILENT_S = 15.0
LAGGING_S = 1.0
LEAST_LINES = 3
# At this height or more, an empty line separates panels.
ROOMY = 30


def panels(
    history: FleetHistory, now: Snapshot, state: ScreenState, width: int, height: int
) -> list[Text]:
    """The collections, then the other panels, then a chart in the remaining space."""
    rows = screen_rows(history, state)
    lists = _lists(history, now, state, width)
    gap = [Text()] if height >= ROOMY else []
    room = height - len(gap) * (1 + len(lists))
    for_table, *shares = shares_of(room, len(rows) + 1, [panel.height for panel in lists])
    drawn = [*gap, *_table(rows, state, width, for_table)]
    for panel, share in zip(lists, shares, strict=True):
        drawn += [*gap, *panel.lines(share)] if share else []
    return [*drawn, *(chart(history, width, height - len(drawn) - 1) if gap else [])]


def _lists(history: FleetHistory, now: Snapshot, state: ScreenState, width: int) -> list[Panel]:
    """The panels with content, the most important first."""
    found = (
        loops(now, width),
        runs(history, now, state, width),
        _workers(now, width),
        contexts(now, width),
        running_tasks(now, width),
        _errors(now, width),
    )
    return [panel for panel in found if panel.rows]


def shares_of(height: int, table: int, lists: Sequence[int]) -> list[int]:
    """How many lines the table and each list get.

    First a few lines for the table and for each list, then the rest of the table, then the rest of
    each list. Below ``ROOMY`` lines, the whole table comes before all lists except the first two.
    """
    least = max(LEAST_LINES, height // (2 + len(lists)))
    shares = [min(table, LEAST_LINES, max(0, height))] + [0] * len(lists)
    wants = [(place, min(least, size)) for place, size in enumerate(lists, 1)]
    early = wants if height >= ROOMY else wants[:2]
    for place, size in (*early, (0, table), *wants, *enumerate(lists, 1)):
        left = height - sum(shares)
        shares[place] += max(0, min(left, size - shares[place]))
        if place and shares[place] == 1:  # A header alone is useless.
            shares[place] = 0
    return shares


# Collections and agents.


def _table(rows: Sequence[Row], state: ScreenState, width: int, height: int) -> list[Text]:
    columns = _columns(width)
    lines = [header(columns, _note(state, rows))]
    at = selected_index(rows, state)
    for index in visible(len(rows), at, height - 1):
        line = row(columns, _values(rows[index], columns))
        if index == at:
            highlight(line, width)
        lines.append(line)
    return lines[: max(0, height)]


def _columns(width: int) -> list[Column]:
    wide = width >= WIDE
    columns = [Column("collection / agent", max(19, min(40, width // 4)), "left")]
    columns += [Column("waiting", 7), *([Column("delayed", 7)] if wide else [])]
    columns += [Column("running", 9 if wide else 7), Column("oldest", 7), Column("done", 7)]
    columns += [Column("failed", 6), Column("rate", 7)]
    columns += [Column("pass", 6), Column("spent", 9)] if wide else []
    return fill(columns, "last error", width)


def _note(state: ScreenState, rows: Sequence[Row]) -> str:
    if state.filter and not rows:
        return "no match"
    return "" if state.sort == SORTS[0] else f"by {state.sort}"


def _values(each: Row, columns: Sequence[Column]) -> list[tuple[str, str]]:
    tally = each.tally
    sign = {True: "▾ ", False: "▸ ", None: "    "}[each.expanded]
    condition, error = _condition(each), plain(tally.error, 200) if tally.error else ""
    values = {
        "collection / agent": (sign + plain(each.name, 80), STRONG if sign.strip() else ""),
        "waiting": (numbers.count(each.waiting), ""),
        "delayed": (numbers.count(each.delayed), ""),
        "running": (f"{numbers.count(each.running)}/{numbers.count(each.concurrency)}", ""),
        "oldest": (numbers.duration(each.oldest_s), ""),
        "done": (numbers.count(tally.done), ""),
        "failed": (numbers.count(tally.failed), BAD if tally.failed else ""),
        "rate": (numbers.rate(each.rate), ""),
        "pass": (numbers.quality(tally.passed, tally.evaluated), ""),
        "spent": (numbers.spent(tally.usd), ""),
        "last error": (f"{condition}{error}", WARN if condition else FAINT),
    }
    return [values[column.title] for column in columns]


def _condition(each: Row) -> str:
    if each.pause_reason:
        return f"paused: {plain(each.pause_reason, 200)} "
    if each.paused:
        return "paused "
    return f"cooldown {numbers.duration(each.cooldown_s)} " if each.cooldown_s else ""


# Workers.


def _workers(now: Snapshot, width: int) -> Panel:
    columns = [Column("workers", max(20, min(44, width // 4)), "left"), Column("slots used", 11)]
    columns += [Column("loop lag", 8), Column("memory", 8)]
    columns += [Column("children", 8)] if width >= WIDE else []
    columns += [Column("heard", 11)]
    columns = fill(columns, "", width)
    pairs = [
        (worker, heartbeat)
        for worker, heartbeat in zip(now.stats.workers, now.heartbeats, strict=True)
        if worker.slots  # Commands have no slots.
    ]
    pairs.sort(key=lambda pair: _trouble(*pair))
    rows = [partial(_worker, worker, heartbeat, wide=width >= WIDE) for worker, heartbeat in pairs]
    none = [("none is running", FAINT), *[("", "")] * (len(columns) - 1)]
    return Panel("workers", columns, rows or [lambda: none])


def _trouble(worker: WorkerSeen, heartbeat: Heartbeat) -> tuple[bool, bool, str]:
    """Sort key: workers in trouble come first."""
    silent, lagging = worker.seen_s >= SILENT_S, (heartbeat.lag_s or 0.0) >= LAGGING_S
    return heartbeat.sink_down_s is None, not (silent or lagging), worker.name


def _worker(worker: WorkerSeen, heartbeat: Heartbeat, *, wide: bool) -> list[tuple[str, str]]:
    late, silent = (heartbeat.lag_s or 0.0) >= LAGGING_S, worker.seen_s >= SILENT_S
    return [
        (plain(worker.name, 80), ""),
        (f"{numbers.count(worker.running)}/{numbers.count(worker.slots)}", ""),
        (numbers.lag(heartbeat.lag_s), BAD if late else ""),
        (numbers.size(_memory(heartbeat)), ""),
        *([(numbers.size(heartbeat.children_bytes or None), FAINT)] if wide else []),
        (f"{numbers.duration(worker.seen_s)} ago", BAD if silent else FAINT),
        _remark(worker, heartbeat),
    ]


def _remark(worker: WorkerSeen, heartbeat: Heartbeat) -> tuple[str, str]:
    if heartbeat.sink_down_s is not None:
        return f"sink down {numbers.duration(heartbeat.sink_down_s)}", BAD
    servers = f"MCP servers {heartbeat.servers}" if heartbeat.servers else ""
    draining = "draining" if worker.draining else ""
    return "  ".join(filter(None, (draining, servers))), FAINT


def _memory(heartbeat: Heartbeat) -> int | None:
    """The memory of the worker and its child processes, in bytes."""
    return None if heartbeat.rss_bytes is None else heartbeat.rss_bytes + heartbeat.children_bytes


# Errors and dead letters.


def _errors(now: Snapshot, width: int) -> Panel:
    """The last error of each agent, newest first."""
    found = [depth for depth in now.stats.queues if depth.tally.error_s is not None]
    found.sort(key=lambda depth: depth.tally.error_s or 0.0)
    columns = [Column("last errors", 19, "left"), Column("when", 11)]
    columns = fill(columns, "what", width)
    rows = [partial(_error, depth, columns[-1].width) for depth in found]
    return Panel("agents with errors", columns, rows)


def _error(depth: QueueDepth, room: int) -> list[tuple[str, str]]:
    return [
        (plain(depth.queue, 80), ""),
        (f"{numbers.duration(depth.tally.error_s)} ago", FAINT),
        (plain(depth.tally.error, room), ""),
    ]


def dead_letters(state: ScreenState, width: int, height: int) -> list[Text]:
    """The list of dead letters, which replaces all other tables."""
    columns = [Column("dead letters", 13), Column("agent", max(14, width // 6), "left")]
    columns += [Column("outcome", 11, "left"), Column("task", max(14, width // 6), "left")]
    columns = fill(columns, "why", width)
    if not state.dead:
        words = "fetching ..." if state.dead is None else "none"
        return [header(columns), Text(words, FAINT)]
    lines = [header(columns)]
    for index in visible(len(state.dead), state.dead_index, height - 1):
        letter = state.dead[index]
        texts = (f"{numbers.duration(letter.age_s)} ago", letter.queue, letter.outcome)
        values = [(plain(text, 200), "") for text in (*texts, letter.task_id, letter.reason)]
        lines.append(row(columns, values))
        if index == state.dead_index:
            highlight(lines[-1], width)
    return lines

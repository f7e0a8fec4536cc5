"""The tables: collections and agents, workers, last errors, dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from agentpipe.tui import numbers
from agentpipe.tui.rows import rows_of, selected_index
from agentpipe.tui.state import SORTS
from agentpipe.tui.table import (
    BAD,
    FAINT,
    STRONG,
    WARN,
    Column,
    cut,
    fill,
    header,
    highlight,
    plain,
    row,
    visible,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.tui.history import FleetHistory, Snapshot
    from agentpipe.tui.rows import Row
    from agentpipe.tui.state import ScreenState
    from agentpipe.worker.claims.heartbeat import Heartbeat

WIDE = 110
# A worker sends three heartbeats per lease, which is 30 s by default.
SILENT_S = 15.0
LAGGING_S = 1.0
LEAST_LINES = 3
# From this height on, an empty line separates panels.
ROOMY = 30


def panels(
    history: FleetHistory, now: Snapshot, state: ScreenState, width: int, height: int
) -> list[Text]:
    """All of them; the first one gets the lines that the others leave."""
    rows = rows_of(history, state)
    workers, errors = _workers(now, width), _errors(now, width)
    gap = [Text()] if height >= ROOMY else []
    room = height - 3 * len(gap)
    for_table, for_workers, for_errors = _shares(room, len(rows), len(workers), len(errors))
    return [
        *gap,
        *_table(rows, state, width, for_table),
        *gap,
        *cut(workers, for_workers, "workers"),
        *gap,
        *cut(errors, for_errors, "agents with errors"),
    ]


def _shares(height: int, rows: int, workers: int, errors: int) -> tuple[int, int, int]:
    """The collections come first where there is little room, then the workers."""
    least, free = max(LEAST_LINES, height // 4), max(0, height - min(rows + 1, LEAST_LINES))
    for_workers = _with_content(min(workers, least, free))
    for_errors = _with_content(min(errors, least, free - for_workers))
    for_table = max(0, min(rows + 1, height - for_workers - for_errors))
    left = max(0, height - for_table - for_workers - for_errors)
    more = min(left, workers - for_workers)
    return for_table, for_workers + more, min(errors, for_errors + left - more)


def _with_content(lines: int) -> int:
    """A header alone says nothing."""
    return 0 if lines == 1 else lines


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
    columns += [Column("pass", 5), Column("spent", 9)] if wide else []
    return fill(columns, "last error", width)


def _note(state: ScreenState, rows: Sequence[Row]) -> str:
    if state.filter and not rows:
        return "no match"
    return "" if state.sort == SORTS[0] else f"by {state.sort}"


def _values(each: Row, columns: Sequence[Column]) -> list[tuple[str, str]]:
    tally = each.tally
    sign = {True: "▾ ", False: "▸ ", None: "    "}[each.expanded]
    passed = f"{tally.passed / tally.evaluated:.0%}" if tally.evaluated else numbers.NONE
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
        "pass": (passed, ""),
        "spent": (numbers.money(tally.usd) if tally.usd else numbers.NONE, ""),
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


def _workers(now: Snapshot, width: int) -> list[Text]:
    columns = [Column("workers", max(20, min(44, width // 4)), "left"), Column("slots used", 11)]
    columns += [Column("loop lag", 8), Column("memory", 8), Column("heard", 11)]
    columns = fill(columns, "", width)
    pairs = [
        (worker, vitals)
        for worker, vitals in zip(now.stats.workers, now.vitals, strict=True)
        if worker.slots  # Commands have none.
    ]
    pairs.sort(key=lambda pair: _trouble(*pair))
    lines = [_worker(worker, vitals, columns) for worker, vitals in pairs]
    return [header(columns), *(lines or [Text("none is running", FAINT)])]


def _trouble(worker: WorkerSeen, vitals: Heartbeat) -> tuple[bool, bool, str]:
    """Those in trouble come first."""
    silent, lagging = worker.seen_s >= SILENT_S, (vitals.lag_s or 0.0) >= LAGGING_S
    return vitals.sink_down_s is None, not (silent or lagging), worker.name


def _worker(worker: WorkerSeen, vitals: Heartbeat, columns: Sequence[Column]) -> Text:
    late, silent = (vitals.lag_s or 0.0) >= LAGGING_S, worker.seen_s >= SILENT_S
    values = (
        (plain(worker.name, 80), ""),
        (f"{numbers.count(worker.running)}/{numbers.count(worker.slots)}", ""),
        (numbers.lag(vitals.lag_s), BAD if late else ""),
        (numbers.size(vitals.rss_bytes), ""),
        (f"{numbers.duration(worker.seen_s)} ago", BAD if silent else FAINT),
        _remark(worker, vitals),
    )
    return row(columns, values)


def _remark(worker: WorkerSeen, vitals: Heartbeat) -> tuple[str, str]:
    if vitals.sink_down_s is not None:
        return f"sink down {numbers.duration(vitals.sink_down_s)}", BAD
    servers = f"MCP servers {vitals.servers}" if vitals.servers else ""
    children = f"children {numbers.size(vitals.children_bytes)}" if vitals.children_bytes else ""
    draining = "draining" if worker.draining else ""
    return "  ".join(filter(None, (draining, servers, children))), FAINT


# Errors and dead letters.


def _errors(now: Snapshot, width: int) -> list[Text]:
    """The last error of each agent, youngest first; empty without errors."""
    found = [depth for depth in now.stats.queues if depth.tally.error_s is not None]
    found.sort(key=lambda depth: depth.tally.error_s or 0.0)
    columns = [Column("last errors", 19, "left"), Column("when", 11)]
    columns = fill(columns, "what", width)
    lines = [
        row(
            columns,
            (
                (plain(depth.queue, 80), ""),
                (f"{numbers.duration(depth.tally.error_s)} ago", FAINT),
                (plain(depth.tally.error, columns[-1].width), ""),
            ),
        )
        for depth in found
    ]
    return [header(columns), *lines] if lines else []


def dead_letters(state: ScreenState, width: int, height: int) -> list[Text]:
    """Shown in place of all other tables."""
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

"""Panels: collections and agents, workers, recent errors, dead letters."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from agentpipe.tui import numbers
from agentpipe.tui.state import SORTS, chosen, rows_of
from agentpipe.tui.table import (
    BAD,
    FAINT,
    STRONG,
    WARN,
    Column,
    choose,
    cut,
    filled,
    head,
    part,
    plain,
    row,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.base import WorkerSeen
    from agentpipe.tui.history import History, Snapshot
    from agentpipe.tui.state import Row, View
    from agentpipe.worker.heartbeat import Vitals

WIDE = 110
# A worker tells of itself three times per lease, which is 30 s where nobody changed it.
SILENT_S = 15.0
LAGGING_S = 1.0
LEAST_LINES = 3
# From so many lines on, panels stand apart.
ROOMY = 30


def panels(history: History, now: Snapshot, view: View, width: int, height: int) -> list[Text]:
    """All of them; the table gets the lines that the others leave."""
    rows = rows_of(history, view)
    workers, errors = _workers(now, width), _errors(now, width)
    gap = [Text()] if height >= ROOMY else []
    room = height - 3 * len(gap)
    for_table, for_workers, for_errors = _shares(room, len(rows), len(workers), len(errors))
    return [
        *gap,
        *_table(rows, view, width, for_table),
        *gap,
        *cut(workers, for_workers, "workers"),
        *gap,
        *cut(errors, for_errors, "agents with errors"),
    ]


def _shares(height: int, rows: int, workers: int, errors: int) -> tuple[int, int, int]:
    least = max(LEAST_LINES, height // 4)
    for_workers, for_errors = min(workers, least), min(errors, least)
    for_table = max(0, min(rows + 1, height - for_workers - for_errors))
    left = max(0, height - for_table - for_workers - for_errors)
    more = min(left, workers - for_workers)
    return for_table, for_workers + more, min(errors, for_errors + left - more)


# Collections and agents.


def _table(rows: Sequence[Row], view: View, width: int, height: int) -> list[Text]:
    columns = _columns(width)
    lines = [head(columns, _note(view, rows))]
    at = chosen(rows, view)
    for index in part(len(rows), at, height - 1):
        line = row(columns, _values(rows[index], columns))
        if index == at:
            choose(line, width)
        lines.append(line)
    return lines[: max(0, height)]


def _columns(width: int) -> list[Column]:
    wide = width >= WIDE
    columns = [Column("collection / agent", max(19, min(40, width // 4)), "left")]
    columns += [Column("waiting", 7), *([Column("delayed", 7)] if wide else [])]
    columns += [Column("running", 9 if wide else 7), Column("oldest", 7), Column("done", 7)]
    columns += [Column("failed", 6), Column("rate", 7)]
    columns += [Column("pass", 5), Column("spent", 9)] if wide else []
    return filled(columns, "last error", width)


def _note(view: View, rows: Sequence[Row]) -> str:
    if view.filter and not rows:
        return "nothing has these words"
    return "" if view.sort == SORTS[0] else f"by {view.sort}"


def _values(each: Row, columns: Sequence[Column]) -> list[tuple[str, str]]:
    tally = each.tally
    sign = {True: "▾ ", False: "▸ ", None: "    "}[each.opened]
    passed = f"{tally.passed / tally.evaluated:.0%}" if tally.evaluated else numbers.NONE
    state, error = _state(each), plain(tally.error, 200) if tally.error else ""
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
        "last error": (f"{state}{error}", WARN if state else FAINT),
    }
    return [values[column.title] for column in columns]


def _state(each: Row) -> str:
    if each.paused:
        return "paused "
    return f"held {numbers.duration(each.held_s)} " if each.held_s else ""


# Workers.


def _workers(now: Snapshot, width: int) -> list[Text]:
    columns = [Column("workers", max(20, min(44, width // 4)), "left"), Column("slots used", 11)]
    columns += [Column("loop lag", 8), Column("memory", 8), Column("heard", 11)]
    columns = filled(columns, "", width)
    pairs = [
        (worker, told)
        for worker, told in zip(now.stats.workers, now.vitals, strict=True)
        if worker.slots  # The others are commands.
    ]
    pairs.sort(key=lambda pair: _trouble(*pair))
    lines = [_worker(worker, told, columns) for worker, told in pairs]
    return [head(columns), *(lines or [Text("none is up", FAINT)])]


def _trouble(worker: WorkerSeen, told: Vitals) -> tuple[bool, bool, str]:
    """Those that need a look come first."""
    silent, lagging = worker.seen_s >= SILENT_S, (told.lag_s or 0.0) >= LAGGING_S
    return told.sink_down_s is None, not (silent or lagging), worker.name


def _worker(worker: WorkerSeen, told: Vitals, columns: Sequence[Column]) -> Text:
    late, silent = (told.lag_s or 0.0) >= LAGGING_S, worker.seen_s >= SILENT_S
    sink = "" if told.sink_down_s is None else f"sink away {numbers.duration(told.sink_down_s)}"
    values = (
        (plain(worker.name, 80), ""),
        (f"{numbers.count(worker.running)}/{numbers.count(worker.slots)}", ""),
        (numbers.lag(told.lag_s), BAD if late else ""),
        (numbers.size(told.rss_bytes), ""),
        (f"{numbers.duration(worker.seen_s)} ago", BAD if silent else FAINT),
        (sink, BAD),
    )
    return row(columns, values)


# Errors and dead letters.


def _errors(now: Snapshot, width: int) -> list[Text]:
    """The last one of each agent, the youngest first; nothing where there is none."""
    found = [depth for depth in now.stats.queues if depth.tally.error_s is not None]
    found.sort(key=lambda depth: depth.tally.error_s or 0.0)
    columns = [Column("last errors", 19, "left"), Column("when", 11)]
    columns = filled(columns, "what", width)
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
    return [head(columns), *lines] if lines else []


def dead(view: View, width: int, height: int) -> list[Text]:
    """The dead letters, in the place of all else."""
    columns = [Column("dead letters", 13), Column("agent", max(14, width // 6), "left")]
    columns += [Column("outcome", 11, "left"), Column("task", max(14, width // 6), "left")]
    columns = filled(columns, "why", width)
    if not view.letters:
        words = "fetching ..." if view.letters is None else "there are none"
        return [head(columns), Text(words, FAINT)]
    lines = [head(columns)]
    for index in part(len(view.letters), view.letter, height - 1):
        letter = view.letters[index]
        texts = (f"{numbers.duration(letter.age_s)} ago", letter.queue, letter.outcome)
        values = [(plain(text, 200), "") for text in (*texts, letter.task_id, letter.reason)]
        lines.append(row(columns, values))
        if index == view.letter:
            choose(lines[-1], width)
    return lines

"""Chart: tasks that ended per second while ``top`` watched, as bars of several lines."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.text import Text

from agentpipe.monitoring import numbers
from agentpipe.monitoring.history import throughput
from agentpipe.tui.table import FAINT, GOOD, HEAD

if TYPE_CHECKING:
    from agentpipe.monitoring.history import FleetHistory

# Width of the scale, left of the bars.
MARGIN = 9
LEAST_LINES, MOST_LINES = 4, 14
BUCKET_S = 2.0


def chart(history: FleetHistory, width: int, height: int) -> list[Text]:
    """A gap, a title and the bars; empty without enough room or values."""
    rows = min(MOST_LINES, height - 1)
    values = throughput(history, max(1, width - MARGIN - 1), BUCKET_S)
    if rows < LEAST_LINES or len(values) < 2:  # noqa: PLR2004 - a chart needs two
        return []
    top = max(values)
    title = f"ended per second, the last {numbers.duration(len(values) * BUCKET_S)}"
    lines = [Text(), Text(title, HEAD)]
    for row in range(rows - 1, -1, -1):
        scale = {rows - 1: numbers.rate(top), 0: "0/s"}.get(row, "")
        bars = "".join(_cell(value / top if top else 0.0, row, rows) for value in values)
        lines.append(Text.assemble((f"{scale:>{MARGIN - 1}} ", FAINT), (bars, GOOD)))
    return lines


def _cell(part: float, row: int, rows: int) -> str:
    """The character of a bar in one line; ``row`` counts from the bottom."""
    eighths = round(part * rows * len(numbers.BARS)) - row * len(numbers.BARS)
    if row == 0 and part > 0:
        eighths = max(1, eighths)
    return " " if eighths <= 0 else numbers.BARS[min(len(numbers.BARS), eighths) - 1]

"""Writes frames as SVG files that fetch nothing and name no machine."""

from __future__ import annotations

import io
import re
from dataclasses import replace
from typing import TYPE_CHECKING

from rich.console import Console
from rich.text import Text

if TYPE_CHECKING:
    from agentpipe.brokers.statistics import WorkerSeen
    from agentpipe.monitoring.history import FleetHistory

# Rich's template fetches a font; an image in a page may not.
FETCHED = re.compile(r"\s*@font-face \{.*?\}", re.DOTALL)
THEIRS, OURS = "Fira Code, monospace", "ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace"


def svg(lines: list[Text], width: int, title: str) -> str:
    """The lines in a terminal window."""
    console = Console(
        width=width, record=True, file=io.StringIO(), color_system="truecolor", force_terminal=True
    )
    console.print(Text("\n").join(lines), soft_wrap=True)
    # A constant id, so that pictures differ only in their numbers.
    drawn = FETCHED.sub("", console.export_svg(title=title, unique_id="top")).replace(THEIRS, OURS)
    return "\n".join(line.rstrip() for line in drawn.splitlines()) + "\n"


def anonymous(history: FleetHistory) -> FleetHistory:
    """Rename workers, whose names contain host and process."""
    return replace(
        history,
        recent=tuple(
            replace(each, stats=replace(each.stats, workers=_renamed(each.stats.workers)))
            for each in history.recent
        ),
    )


def _renamed(workers: tuple[WorkerSeen, ...]) -> tuple[WorkerSeen, ...]:
    ordered = sorted(workers, key=lambda worker: worker.name)
    return tuple(
        replace(worker, name=f"worker-{number}", host="host", pid=number)
        for number, worker in enumerate(ordered, 1)
    )

"""A progress bar on a terminal."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

from agentpipe.cli.guard import guarded_output, unguarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress_bar(
    label: str, *, shown: bool, redirect: bool, total: int | None = None
) -> Iterator[Callable[[int], None]]:
    """Yield the function that advances the bar; it does nothing unless ``shown``.

    With ``redirect``, rich prints stdout and stderr above the bar; do not use it if stdout is
    piped. rich replaces the guarded streams with its own, so those are guarded again.
    """
    if not shown:
        yield lambda _number: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    bar = Progress(
        *columns,
        console=Console(file=unguarded(sys.stderr)),
        transient=True,
        redirect_stdout=redirect,
        redirect_stderr=redirect,
    )
    with bar, guarded_output():
        task = bar.add_task(label, total=total)
        yield lambda number: bar.advance(task, number)

"""A progress bar on a terminal."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@contextmanager
def progress_bar(
    label: str, *, shown: bool, redirect: bool, total: int | None = None
) -> Iterator[Callable[[int], None]]:
    """Give the function that advances the bar; it does nothing unless ``shown``.

    With ``redirect``, rich prints stdout and stderr above the bar: off for a piped stdout.
    """
    if not shown:
        yield lambda _number: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=redirect,
        redirect_stderr=redirect,
    ) as bar:
        task = bar.add_task(label, total=total)
        yield lambda number: bar.advance(task, number)

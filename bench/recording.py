"""Keeps the rows of a bench: each group's rows and machine, in a file of ``bench/recorded``.

A failure is recorded as a row, and the rest continues.
"""

from __future__ import annotations

import os
import signal
import sys
import time
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.timestamps import utc
from bench.machine import machine, versions

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

FOLDER = Path(__file__).with_name("recorded")
# A figure that hangs must not cost the other figures.
FIGURE_LIMIT_S = 180


@dataclass(frozen=True, slots=True)
class Row:
    """A figure.

    Attributes:
        ratios: Least, median and greatest, if it was measured alternately with a reference.
        beside: The reference, or another remark.
    """

    label: str
    value: str
    beside: str = ""
    ratios: tuple[float, float, float] | None = None


@dataclass(frozen=True, slots=True)
class Group:
    """The rows of one command.

    Attributes:
        began: Start time in UTC.
        loads: Load averages over the minute before it began, and before it ended.
    """

    name: str
    command: str
    began: str
    took_s: float
    loads: tuple[float, float]
    machine: dict[str, str]
    versions: dict[str, str]
    rows: list[Row] = field(default_factory=list)


_group: ContextVar[Group | None] = ContextVar("group", default=None)


def note(row: Row) -> None:
    """Print a row, and keep it if a group is being recorded."""
    spread = "{1:.2f} ({0:.2f} to {2:.2f}) of ".format(*row.ratios) if row.ratios else ""
    sys.stdout.write(f"{row.label:<52} {row.value:>14}   {spread}{row.beside}\n")
    sys.stdout.flush()
    if (group := _group.get()) is not None:
        group.rows.append(row)
        _write(group)


def attempt(label: str, measure: Callable[..., None], *arguments: Any) -> None:
    """Measure within a time limit; record a failure as a row."""
    signal.signal(signal.SIGALRM, _out_of_time)
    signal.alarm(FIGURE_LIMIT_S)
    try:
        measure(*arguments)
    except Exception as error:  # noqa: BLE001 - the other rows count, whatever failed
        failed(label, error)
    finally:
        signal.alarm(0)


def failed(label: str, error: Exception) -> None:
    reason = " ".join(str(error).split())[:200] or "no more is known"
    note(Row(label, "failed", f"{type(error).__name__}: {reason}"))


def _out_of_time(*_: object) -> None:
    raise TimeoutError(f"more than {FIGURE_LIMIT_S} s")


@contextmanager
def recording(name: str) -> Iterator[None]:
    """Keep the rows that are noted inside, instead of those of the last time."""
    command = f"python -m bench.bench {name}"
    load = os.getloadavg()[0]
    group = Group(name, command, utc(time.time()), 0.0, (load, load), machine(), versions())
    started, token = time.perf_counter(), _group.set(group)
    try:
        yield
    finally:
        _group.reset(token)
        took_s = round(time.perf_counter() - started, 1)
        _write(replace(group, took_s=took_s, loads=(load, os.getloadavg()[0])))


def recorded(name: str) -> Group | None:
    """The recorded group; None if there is none."""
    path = FOLDER / f"{name}.json"
    if not path.exists():
        return None
    fields = orjson.loads(path.read_bytes())
    return Group(**{**fields, "rows": [Row(**row) for row in fields["rows"]]})


def _write(group: Group) -> None:
    FOLDER.mkdir(exist_ok=True)
    path = FOLDER / f"{group.name}.json"
    path.write_bytes(orjson.dumps(asdict(group), option=orjson.OPT_INDENT_2) + b"\n")

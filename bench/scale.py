"""Makes ``docs/scale.md`` from the results of ``bench.growth``: ``python -m bench.scale``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import fill
from typing import TYPE_CHECKING

import orjson

from bench import recording

if TYPE_CHECKING:
    from collections.abc import Iterator

DOCUMENT = Path(__file__).parents[1] / "docs" / "scale.md"
NAMES = {"sqlite": "one SQLite file", "redis": "one Redis", "rabbitmq": "one RabbitMQ"}
# What each task costs once, from its sender to its sink.
OF_A_TASK = ("offer", "claim", "settle", "take from the outbox", "drop from the outbox")
EXAMPLE_AGENTS, EXAMPLE_RUN_S = 10_000, 60
WIDTH = 120
_WORKERS = recording.FOLDER / "growth-workers.json"
HEAD = """\
# Scale

`python -m bench.growth` measures what each operation of a broker costs, and makes
this page; nothing in it is written by hand. One process does everything, in batches as workers
do (32 claims, 100 offers). A cell has the microseconds that pass for each item, and in brackets
those of this process's own processor; a server's processor is in the first only. Where other
work ran on the machine (the load tells), the second figure is the steadier. While one grows, the
other stays: {few}. Where agents of others grow, which are declared and have no tasks, a worker
serves 200, for which 10,000 tasks wait.

Many workers of one Redis have a table at the end. What is not in a table here was not measured:
among it several workers at once on the others.

## Working out what one broker carries

A task costs its broker one offer, one claim, one settlement, and its Result's way out of the
outbox. Agents of N runs at once, each of S seconds, need N / S tasks a second. Below, "at most"
is a second divided by the sum of these costs, by one process, one operation at a time: a file
has one writer, so that it is the limit there. Keep to half of it.
"""


@dataclass(frozen=True, slots=True)
class Table:
    """Costs of each operation in microseconds: elapsed time and processor time.

    Attributes:
        noun: What grows.
    """

    noun: str
    numbers: list[int]
    costs: dict[str, list[tuple[float, float]]]


@dataclass(frozen=True, slots=True)
class Growth:
    """The measurements of one broker.

    Attributes:
        few: The fixed numbers while the other grows.
    """

    broker: str
    load: float
    few: str
    machine: dict[str, str]
    tables: list[Table]


@dataclass(frozen=True, slots=True)
class Workers:
    """What one Redis spends on workers, by their number.

    Attributes:
        what: What they have in common.
        rows: A value per number of workers, by what is measured, with its unit.
    """

    load: float
    what: str
    machine: dict[str, str]
    numbers: list[int]
    rows: dict[str, list[float]]


def keep_workers(found: Workers) -> None:
    """Keep for the document, and replace what was kept before."""
    recording.FOLDER.mkdir(exist_ok=True)
    _WORKERS.write_bytes(orjson.dumps(asdict(found), option=orjson.OPT_INDENT_2) + b"\n")


def keep(growth: Growth) -> None:
    """Keep for the document, and replace what was kept of the broker before."""
    recording.FOLDER.mkdir(exist_ok=True)
    path = recording.FOLDER / f"growth-{growth.broker}.json"
    path.write_bytes(orjson.dumps(asdict(growth), option=orjson.OPT_INDENT_2) + b"\n")


def kept() -> list[Growth]:
    found = []
    for broker in NAMES:
        path = recording.FOLDER / f"growth-{broker}.json"
        if path.exists():
            fields = orjson.loads(path.read_bytes())
            found.append(Growth(**{**fields, "tables": [Table(**it) for it in fields["tables"]]}))
    return found


def write() -> None:
    DOCUMENT.write_text("\n".join(_lines(kept())).rstrip("\n") + "\n")


def _lines(growths: list[Growth]) -> Iterator[str]:
    few = "; ".join(f"{NAMES[each.broker]}: {each.few}" for each in growths)
    yield HEAD.format(few=few)
    for growth in growths:
        yield from _example(growth)
    for growth in growths:
        yield from _section(growth)
    if _WORKERS.exists():
        yield from _of_workers(Workers(**orjson.loads(_WORKERS.read_bytes())))


def _example(growth: Growth) -> Iterator[str]:
    """An example for the column with most waiting tasks."""
    waiting = growth.tables[0]
    sum_us = sum(waiting.costs[name][-1][0] for name in OF_A_TASK)
    most, needed = 1e6 / sum_us, EXAMPLE_AGENTS / EXAMPLE_RUN_S
    text = (
        f"- {NAMES[growth.broker]}: {sum_us:,.0f} us a task with {waiting.numbers[-1]:,} waiting, "
        f"at most {most:,.0f} tasks/s. {EXAMPLE_AGENTS:,} runs at once of {EXAMPLE_RUN_S} s need "
        f"{needed:,.0f} tasks/s: {needed / most:.0%} of it."
    )
    yield fill(text, WIDTH, subsequent_indent="  ")
    yield ""


def _section(growth: Growth) -> Iterator[str]:
    name = NAMES[growth.broker]
    yield f"## {name[0].upper()}{name[1:]}\n"
    parts = (*(f"{key}: {value}" for key, value in growth.machine.items()),)
    yield f"Load {growth.load:.1f}; {'; '.join(parts)}.\n"
    for table in growth.tables:
        heads = " | ".join(f"{number:,} {table.noun}" for number in table.numbers)
        yield f"| us | {heads} | last / first |"
        yield "|---" * (len(table.numbers) + 2) + "|"
        for operation, costs in table.costs.items():
            cells = " | ".join(f"{passed:,.0f} ({used:,.0f})" for passed, used in costs)
            (first, first_used), (last, last_used) = costs[0], costs[-1]
            grown = f"{last / first:.2f} ({last_used / first_used:.2f})"
            yield f"| {operation} | {cells} | {grown} |"
        yield ""


def _last_of(found: Workers, part: str) -> float:
    return next(values[-1] for name, values in found.rows.items() if part in name)


def _of_workers(found: Workers) -> Iterator[str]:
    yield "## Many workers of one Redis\n"
    yield fill(
        "`python -m bench.many_workers`: simulated workers, each with its subscription, settle and "
        "claim in one call and run nothing. Processor time is the server's, which has one thread: "
        f"{found.what}. Idle workers look once a second, and when they are woken for a task.",
        WIDTH,
    )
    of_task, of_wake_up = (_last_of(found, part) for part in ("whole way", "is claimed"))
    yield ""
    yield fill(
        f"With {found.numbers[-1]:,} workers that is at most {1e6 / of_task:,.0f} tasks/s. While "
        f"all of them are idle, each task that comes costs {of_wake_up:,.1f} ms of the server: it "
        "wakes one of them, and claims.",
        WIDTH,
    )
    yield ""
    parts = (*(f"{key}: {value}" for key, value in found.machine.items()),)
    yield f"Load {found.load:.1f}; {'; '.join(parts)}.\n"
    heads = " | ".join(f"{number:,} workers" for number in found.numbers)
    yield f"| | {heads} | last / first |"
    yield "|---" * (len(found.numbers) + 2) + "|"
    for name, values in found.rows.items():
        cells = " | ".join(f"{value:,.1f}" for value in values)
        yield f"| {name} | {cells} | {values[-1] / values[0]:.2f} |"
    yield ""


if __name__ == "__main__":
    write()

"""Search: finds the records of a query, by index where records are indexed."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from functools import lru_cache
from operator import eq, ge, lt
from typing import TYPE_CHECKING, Any

from agentpipe.core.run_names import bounds_of, run_of
from agentpipe.sinks.sqlite.facts import FEW, count_unindexed, facts_of, indexed_to
from agentpipe.sinks.sqlite.layout import (
    BODY,
    PAGE_BYTES,
    TASK_ID,
    page_of,
    records_of,
    text_of,
)

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.sinks.base import Query, Record
    from agentpipe.sinks.sqlite.facts import Facts, Readable

    # A column, the comparison, and the value to compare with.
    Asked = tuple[tuple[str, Callable[[Any, Any], Any], Any], ...]

# Maximum records in memory at a time; ``page_of`` also limits their bytes.
PAGE = 256
# The columns for a query's fields, the most selective first.
_COLUMNS = {
    "group": "group_id",
    "run": "run",
    "finished_from": "finished_at",
    "finished_before": "finished_at",
    "outcome": "outcome",
    "agent": "agent",
    "collection": "collection",
}
_HOLDS = {"=": eq, ">=": ge, "<": lt}


_NEXT_ID = (
    f"SELECT {TASK_ID} FROM records WHERE task_id >= ? AND instr(task_id, '/')"
    " ORDER BY task_id LIMIT 1"
)


def search(database: Readable, query: Query) -> Iterator[Record]:
    """Find records. Memory holds a page of records, and 8 bytes per match."""
    if query.task_id is not None:
        yield from _of_task(database, query)
        return
    with database.read() as db:
        mark = indexed_to(db) if _asked(query) else 0
        found = positions_of(db, query) if mark else array("q")
    for records in _pages(database, query, found):
        yield from records
    yield from _after(database, query, mark)


def asks_indices(query: Query) -> bool:
    """Whether unindexed records slow the query down; task ids are always indexed."""
    return query.task_id is None and query.run is None and bool(_asked(query))


def _of_task(database: Readable, query: Query) -> list[Record]:
    times, values = _published(query)
    with database.read() as db:
        rows = db.execute(
            f"SELECT {TASK_ID}, {BODY}, position FROM records WHERE task_id = ?{times}"
            " ORDER BY position",
            (query.task_id, *values),
        )
        return [record for record in records_of(rows) if _matches(query, record)]


def positions_of(db: sqlite3.Connection, query: Query) -> array[int]:
    """Positions of the indexed records with a query's facts, in stream order."""
    conditions: list[str] = []
    values: list[Any] = []
    for name, column in _COLUMNS.items():
        if (value := getattr(query, name)) is not None:
            conditions.append(f"{_use(column, conditions)} {_operator(name)} ?")
            values.append(value)
    if query.after is not None:
        conditions.append("position > ?")
        values.append(query.after)
    # The last records are found from the end of the stream, without reading the others.
    rows = db.execute(
        f"SELECT position FROM facts WHERE {' AND '.join(conditions)} ORDER BY position DESC"
        " LIMIT ?",
        (*values, -1 if query.last is None else query.last),
    )
    found = array("q", (position for (position,) in rows))
    found.reverse()
    return found


def _use(column: str, before: Sequence[str]) -> str:
    """Restrict SQLite to one index: it can choose a bad one; a plus sign disables the others."""
    return column if not before or before[0].startswith(column) else f"+{column}"


def _operator(name: str) -> str:
    return ">=" if name.endswith("_from") else "<" if name.endswith("_before") else "="


def _at(db: sqlite3.Connection, query: Query, positions: Sequence[int]) -> list[Record]:
    """The first page of records at these positions; empty if none is left."""
    times, values = _published(query)
    cursor = db.execute(
        f"SELECT {TASK_ID}, {BODY}, position FROM records"
        f" WHERE position IN ({','.join('?' * len(positions))}){times} ORDER BY position",
        (*positions, *values),
    )
    return page_of(cursor)


def _after(database: Readable, query: Query, mark: int) -> Iterator[Record]:
    """Matching records after ``mark``, which are not indexed or whose query uses no index."""
    if query.run is not None and count_unindexed(database) > FEW:
        yield from _of_run(database, query, query.run, mark)
        return
    times, values = _published(query)
    mark = max(mark, query.after or 0)
    while True:
        with database.read() as db:
            cursor = db.execute(
                f"SELECT {TASK_ID}, {BODY}, position FROM records WHERE position > ?{times}"
                " ORDER BY position LIMIT ?",
                (mark, *values, PAGE),
            )
            records = page_of(cursor)
        if not records:
            return
        yield from (record for record in records if _matches(query, record))
        mark = records[-1].position


def _of_run(database: Readable, query: Query, run: str, mark: int) -> Iterator[Record]:
    """Find a run's records by the index of task ids, which begin with the run."""
    with database.read() as db:
        rows = db.execute(
            "SELECT position FROM records WHERE task_id >= ? AND task_id < ? AND +position > ?"
            " ORDER BY position",
            (*bounds_of(run), max(mark, query.after or 0)),
        )
        found = array("q", (position for (position,) in rows))
    for records in _pages(database, query, found):
        yield from (record for record in records if _matches(query, record))


def runs_of(database: Readable) -> list[str]:
    """The runs in task ids, by their index: one query per run or other prefix."""
    found: list[str] = []
    at, before = "", None
    with database.read() as db:
        # Ids with invalid UTF-8 sort differently from their decoded text, so stop without progress.
        while at != before and (row := db.execute(_NEXT_ID, (at,)).fetchone()):
            task_id = text_of(row[0])
            run = run_of(task_id)
            found += [] if run is None else [run]
            before, at = at, max(at, bounds_of(task_id.partition("/")[0])[1])
    return found


def _pages(database: Readable, query: Query, found: array[int]) -> Iterator[list[Record]]:
    start = 0
    while start < len(found):
        end = start + PAGE
        with database.read() as db:
            records = _at(db, query, found[start:end])
        yield records
        # Continue after the last one: a page of large records ends early.
        is_cut = sum(len(record.payload) for record in records) >= PAGE_BYTES
        start = bisect_right(found, records[-1].position) if is_cut else end


def _published(query: Query) -> tuple[str, list[float]]:
    bounds = ((">=", query.published_from), ("<", query.published_before))
    given = [(operator, value) for operator, value in bounds if value is not None]
    conditions = "".join(f" AND published_at {operator} ?" for operator, _ in given)
    return conditions, [value for _, value in given]


def _matches(query: Query, record: Record) -> bool:
    asked = _asked(query)
    return not asked or _agree(asked, facts_of(record.payload))


def _agree(asked: Asked, facts: Facts) -> bool:
    return all(
        (found := getattr(facts, column)) is not None and holds(found, value)
        for column, holds, value in asked
    )


@lru_cache(maxsize=8)
def _asked(query: Query) -> Asked:
    """The facts that each record of a search must have; cached, as it is called per record."""
    return tuple(
        (column, _HOLDS[_operator(name)], value)
        for name, column in _COLUMNS.items()
        if (value := getattr(query, name)) is not None
    )

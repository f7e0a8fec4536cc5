"""Many rows in few statements.

Python releases the GIL at each step of a statement, and gets it back only when the thread that took
it pauses: beside a busy thread, ``executemany`` waits that long for each row.
"""

from __future__ import annotations

from functools import cache
from itertools import chain
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

# Rows per statement. Above FEW, use powers of two, so that few variants need to be prepared.
MOST, FEW = 64, 4


def execute_rows(db: sqlite3.Connection, statement: str, rows: Sequence[Sequence[Any]]) -> None:
    """Execute a statement for all rows; its ``{}`` stands where SQL allows the rows of VALUES."""
    at = 0
    while at < len(rows):
        left = len(rows) - at
        number = left if left <= FEW else min(MOST, 1 << left.bit_length() - 1)
        part = rows[at : at + number]
        values = list(chain.from_iterable(part))
        db.execute(_with_rows(statement, len(part[0]), number), values)
        at += number


@cache
def _with_rows(statement: str, width: int, number: int) -> str:
    row = f"({', '.join('?' * width)})"
    return statement.format(", ".join([row] * number))

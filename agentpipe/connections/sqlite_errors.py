"""Errors of SQLite: which of them tell of an outage."""

from __future__ import annotations

import sqlite3

# The primary result codes of an outage: https://sqlite.org/rescode.html
_OUTAGES = frozenset(
    {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_IOERR,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_CANTOPEN,
    }
)


def is_outage(error: sqlite3.Error | OSError) -> bool:
    """Whether the file cannot be used for now: it is locked, or the disk is full or broken.

    All else is the answer to a mistake, or tells of damage: no waiting mends it.
    """
    if isinstance(error, OSError):
        return True
    code = getattr(error, "sqlite_errorcode", None)  # Python's own errors have none.
    return code is not None and code & 0xFF in _OUTAGES

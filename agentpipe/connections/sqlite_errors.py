"""Which SQLite errors mean an outage."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

from agentpipe.errors import AgentpipeError, ConfigError, StoreError, Unreachable

if TYPE_CHECKING:
    from pathlib import Path

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
    """Whether the file is temporarily unusable: locked, or on a full or broken disk.

    All other errors mean a bug, a bad request or damage, which a retry does not fix.
    """
    if isinstance(error, OSError):
        return True
    code = getattr(error, "sqlite_errorcode", None)  # Errors that Python raises have no code.
    return code is not None and code & 0xFF in _OUTAGES


def unusable(path: Path, error: StoreError) -> AgentpipeError:
    """The error for a file that cannot be opened, because of ``error``: perhaps it is read-only."""
    code = getattr(error.__cause__, "sqlite_errorcode", 0)
    if code & 0xFF == sqlite3.SQLITE_NOTADB:
        return ConfigError(
            f"{path} is not an SQLite database: name another file, or restore a damaged one"
        )
    return Unreachable(f"cannot use {error}")


def is_of_disk(error: BaseException | None) -> bool:
    """Whether the disk is full or broken."""
    code = getattr(error, "sqlite_errorcode", 0)
    return bool(code & 0xFF in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR))

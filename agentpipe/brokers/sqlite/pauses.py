"""Pauses of the embedded store, by operators and by the breaker."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.sqlite.queries import SET_PAUSES

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence


def pause(db: sqlite3.Connection, names: Sequence[tuple[str, str]], reason: str) -> None:
    """Pause ``names``, pairs of kind (``queue`` or ``collection``) and name."""
    db.executemany("INSERT OR IGNORE INTO pauses VALUES (?, ?)", names)
    if reason:
        rows = [(kind, name, reason) for kind, name in names]
        db.executemany("INSERT OR REPLACE INTO pause_reasons VALUES (?, ?, ?)", rows)
    db.execute(SET_PAUSES)


def resume(db: sqlite3.Connection, names: Sequence[tuple[str, str]]) -> None:
    """Resume ``names``, and reset the streaks of the collections."""
    for table in ("pauses", "pause_reasons"):
        db.executemany(f"DELETE FROM {table} WHERE kind = ? AND name = ?", names)
    collections = [(name,) for kind, name in names if kind == "collection"]
    db.executemany("DELETE FROM streaks WHERE collection = ?", collections)
    db.execute(SET_PAUSES)

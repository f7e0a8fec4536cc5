"""Trainers' loops in the embedded store: one row per loop, with its holder."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.readable_rows import bytes_in, number_in, readable, text_in
from agentpipe.core.loop_holds import LoopHold, LoopState, taken_text
from agentpipe.errors import LoopTaken

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_SELECT = "SELECT name, token, beat, report FROM loops"
# Two comparisons, because the clock restarts at boot: an old beat can lie in the future.
_FREE = "NOT (beat <= ?1 AND ?1 < beat + lease_s)"
_HOLD = (
    "INSERT INTO loops VALUES (?2, ?3, ?1, ?4, ?5) ON CONFLICT (name) DO UPDATE SET"
    " token = excluded.token, beat = excluded.beat, lease_s = excluded.lease_s,"
    f" report = excluded.report WHERE token IN (excluded.token, ?6) OR {_FREE}"
)

_KEEP = "UPDATE loops SET beat = ?, lease_s = ?, report = ? WHERE name = ? AND token = ?"


def hold_loop(
    db: sqlite3.Connection, hold: LoopHold, report: bytes, lease_s: float, instead_of: str
) -> LoopState:
    """Take a free loop or renew a held one; returns the holder afterwards."""
    db.execute(_HOLD, (time.monotonic(), hold.name, hold.token, lease_s, report, instead_of))
    (found,) = read_loops(db, hold.name)
    return found


def keep_loop(
    db: sqlite3.Connection, hold: LoopHold, report: bytes, lease_s: float
) -> LoopState | None:
    """Renew a held loop; returns the holder."""
    db.execute(_KEEP, (time.monotonic(), lease_s, report, hold.name, hold.token))
    return next(iter(read_loops(db, hold.name)), None)


def drop_loop(db: sqlite3.Connection, hold: LoopHold) -> None:
    """Release the loop if this trainer holds it."""
    db.execute("DELETE FROM loops WHERE name = ? AND token = ?", (hold.name, hold.token))


def read_loops(db: sqlite3.Connection, name: str | None = None) -> tuple[LoopState, ...]:
    """Return all loops, or the one with this name."""
    rows = db.execute(f"{_SELECT} WHERE ?1 IS NULL OR name = ?1 ORDER BY name", (name,)).fetchall()
    return tuple(readable("loops", rows, _state))


def refuse_others(db: sqlite3.Connection, hold: LoopHold | None) -> None:
    """Check that the trainer still holds its loop.

    Raises:
        LoopTaken: It does not; the message names the holder.
    """
    if hold is None:
        return
    state = next(iter(read_loops(db, hold.name)), None)
    if state is None or state.token != hold.token:
        raise LoopTaken(taken_text(hold.name, state))


def _state(row: Sequence[Any]) -> LoopState:
    name, token, beat, report = row
    now = time.monotonic()
    # A beat from before the last boot: silent at least since that boot.
    silent_s = now - number_in(beat) if number_in(beat) <= now else now
    return LoopState(text_in(name), text_in(token), silent_s, bytes_in(report))

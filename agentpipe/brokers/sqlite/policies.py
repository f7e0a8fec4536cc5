"""Policies of the embedded store: one row per policy; trainers change it, workers read it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.brokers.readable_rows import readable
from agentpipe.brokers.sqlite.queries import PARKED_BY_POLICY
from agentpipe.core.policy import PolicySpec, PolicyState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

_SELECT = (
    "SELECT spec, version, paused, pauses, coalesce(accepted, 0), coalesce(running, 0),"
    " coalesce(stale, 0) FROM policies LEFT JOIN policy_counts ON policy = name"
)
# Takes the policy, and the changes of its counts of accepted, running and stale units.
COUNT_UNITS = (
    "INSERT INTO policy_counts VALUES (?, ?, ?, ?) ON CONFLICT (policy) DO UPDATE SET"
    " accepted = max(0, accepted + excluded.accepted), running = running + excluded.running,"
    " stale = stale + excluded.stale"
)


def read_policies(db: sqlite3.Connection) -> tuple[PolicyState, ...]:
    """Return all policies, sorted by name."""
    rows = db.execute(f"{_SELECT} ORDER BY name").fetchall()
    return tuple(readable("policies", rows, _state))


def _state(row: Sequence[Any]) -> PolicyState:
    spec, version, paused, *counts = row
    return PolicyState(PolicySpec.decode(spec), int(version), bool(paused), *map(int, counts))


def read_policy(db: sqlite3.Connection, name: str) -> PolicyState | None:
    """Return one policy; None if it does not exist."""
    rows = db.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchall()
    return next(readable("policies", rows, _state), None)


def policy_ahead(db: sqlite3.Connection, collection: str | None, due: float) -> PolicyState | None:
    """Return the policy that parked a task of this collection; None if it is not parked so."""
    if due != PARKED_BY_POLICY:
        return None
    query = "SELECT policy FROM policy_followers WHERE collection = ?"
    row = db.execute(query, (collection,)).fetchone()
    return None if row is None else read_policy(db, row[0])


def pause_of(db: sqlite3.Connection, collection: str | None) -> str:
    """Return the name of the paused policy that the collection follows; empty if none."""
    query = (
        "SELECT name FROM policies JOIN policy_followers ON policy = name"
        " WHERE collection = ? AND paused"
    )
    row = db.execute(query, (collection,)).fetchone()
    return "" if row is None else str(row[0])

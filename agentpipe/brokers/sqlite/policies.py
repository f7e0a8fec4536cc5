"""Policies of the embedded store: a row for each, which trainers change and workers read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.brokers.readable_rows import readable
from agentpipe.core.policy import PolicySpec, PolicyState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Queue
    from agentpipe.core.policy import PolicyChange

_SELECT = "SELECT spec, version, paused, pauses FROM policies"
_ADD = "INSERT INTO policies (name, spec, declared) VALUES (?, ?, ?)"
_SET = "UPDATE policies SET spec = ?, version = ?, paused = ?, pauses = ? WHERE name = ?"
_FOLLOW = (
    "INSERT INTO policy_followers VALUES (?, ?)"
    " ON CONFLICT (collection) DO UPDATE SET policy = excluded.policy"
)


def read_policies(db: sqlite3.Connection) -> tuple[PolicyState, ...]:
    """All of them."""
    rows = db.execute(f"{_SELECT} ORDER BY name").fetchall()
    return tuple(readable("policies", rows, _state))


def _state(row: Sequence[Any]) -> PolicyState:
    spec, version, paused, pauses = row
    return PolicyState(PolicySpec.decode(spec), int(version), bool(paused), int(pauses))


def change_policy(db: sqlite3.Connection, name: str, change: PolicyChange) -> PolicyState | None:
    """Carry out a change; returns what holds now, None where there is no such policy."""
    rows = db.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchall()
    state = next(readable("policies", rows, _state), None)
    if state is None:
        return None
    after = change.of(state)
    if after != state:
        _keep(db, after)
    return after


def _keep(db: sqlite3.Connection, state: PolicyState) -> None:
    values = (state.spec.encode(), state.version, state.paused, state.pauses)
    db.execute(_SET, (*values, state.name))


class PolicyNews:
    """What declared queues change of policies, and of who follows them."""

    def __init__(self, db: sqlite3.Connection, queues: Iterable[Queue]) -> None:
        given = {it.collection: it.policy for it in queues if it.collection}
        declared: Mapping[str, str] = dict(db.execute("SELECT name, declared FROM policies"))
        followed = dict(db.execute("SELECT collection, policy FROM policy_followers"))
        self._db = db
        self._specs = {
            spec.name: (spec, declared.get(spec.name))
            for spec in given.values()
            if spec is not None and spec.encode() != declared.get(spec.name)
        }
        self._follow = {
            collection: spec and spec.name
            for collection, spec in given.items()
            if (spec and spec.name) != followed.get(collection)
        }

    def __bool__(self) -> bool:
        return bool(self._specs or self._follow)

    def carry_out(self) -> None:
        """Change it. What was published since stays until a file says something else."""
        for name, (spec, before) in self._specs.items():
            if before is None:
                self._db.execute(_ADD, (name, spec.encode(), spec.encode()))
            else:
                self._db.execute(
                    "UPDATE policies SET spec = ?1, declared = ?1 WHERE name = ?2",
                    (spec.encode(), name),
                )
        for collection, policy in self._follow.items():
            if policy is None:
                self._db.execute("DELETE FROM policy_followers WHERE collection = ?", (collection,))
            else:
                self._db.execute(_FOLLOW, (collection, policy))

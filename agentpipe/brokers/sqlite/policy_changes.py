"""Changes of the embedded store's policies, by trainers and by declarations."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers.sqlite.groups import cancel_rest
from agentpipe.brokers.sqlite.policies import COUNT_UNITS, read_policy
from agentpipe.brokers.sqlite.policy_units import unpark_units
from agentpipe.brokers.sqlite.queries import DELAYED, PARKED_BY_POLICY, add_to_counters

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Queue
    from agentpipe.core.policy import PolicyChange, PolicyState

_ADD = "INSERT INTO policies (name, spec, declared) VALUES (?, ?, ?)"
_SET = "UPDATE policies SET spec = ?, version = ?, paused = ?, pauses = ? WHERE name = ?"
_FOLLOW = (
    "INSERT INTO policy_followers VALUES (?, ?)"
    " ON CONFLICT (collection) DO UPDATE SET policy = excluded.policy"
)


def change_policy(db: sqlite3.Connection, name: str, change: PolicyChange) -> PolicyState | None:
    """Apply a change; returns the new state, or None if the policy does not exist."""
    state = read_policy(db, name)
    if state is None:
        return None
    after = change.of(state)
    if change.unused:
        add_to_counters(db, {f"group:{change.unused}": change.returned})
    if after != state:
        stale = _stale_groups(db, after) if after.version > state.version else ()
        for group_id in stale:
            cancel_rest(db, group_id)
        after = replace(after, stale=after.stale + len(stale))
        _keep(db, after)
        db.execute(COUNT_UNITS, (name, after.accepted - state.accepted, 0, len(stale)))
        unpark_units(db, name)
    return after


def _keep(db: sqlite3.Connection, state: PolicyState) -> None:
    values = (state.spec.encode(), state.version, state.paused, state.pauses)
    db.execute(_SET, (*values, state.name))


def _stale_groups(db: sqlite3.Connection, state: PolicyState) -> Sequence[str]:
    """Return open groups whose oldest member is already too old for the current version."""
    if state.spec.max_staleness is None:
        return ()
    rows = db.execute(
        "SELECT group_id FROM task_groups JOIN policy_units ON unit = 'group ' || group_id"
        " WHERE policy = ? AND oldest < ?"
        " AND EXISTS (SELECT 1 FROM group_members m JOIN tasks t ON t.id = m.task_id"
        "  WHERE m.group_id = task_groups.group_id AND m.ended = 0 AND NOT t.cancelled)",
        (state.name, state.version - state.spec.max_staleness),
    )
    return [group_id for (group_id,) in rows]


class DeclaredPolicies:
    """The changes that declared queues make to policies and to who follows them."""

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
        """Apply the changes. Unchanged declarations keep what was published since."""
        for name, (spec, before) in self._specs.items():
            if before is None:
                self._db.execute(_ADD, (name, spec.encode(), spec.encode()))
            else:
                self._db.execute(
                    "UPDATE policies SET spec = ?1, declared = ?1 WHERE name = ?2",
                    (spec.encode(), name),
                )
        # Unpark everything: the next claims park again what may not start.
        due = f"UPDATE tasks SET due = 0.0 WHERE state = {DELAYED} AND due = ?"
        self._db.execute(due, (PARKED_BY_POLICY,))
        for collection, policy in self._follow.items():
            if policy is None:
                self._db.execute("DELETE FROM policy_followers WHERE collection = ?", (collection,))
            else:
                self._db.execute(_FOLLOW, (collection, policy))

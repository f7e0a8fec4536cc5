"""Policies of the embedded store: one row per policy; trainers change it, workers read it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.readable_rows import readable
from agentpipe.brokers.sqlite.queries import DELAYED, SETTLED, WAITING, add_to_counters
from agentpipe.core.policy import PolicySpec, PolicyState

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Mapping, Sequence

    from agentpipe.brokers.records import Queue
    from agentpipe.core.policy import PolicyChange

_SELECT = (
    "SELECT spec, version, paused, pauses, coalesce(accepted, 0), coalesce(running, 0),"
    " coalesce(stale, 0) FROM policies LEFT JOIN policy_counts ON policy = name"
)
_COUNT = (
    "INSERT INTO policy_counts VALUES (?, ?, ?, ?) ON CONFLICT (policy) DO UPDATE SET"
    " accepted = max(0, accepted + excluded.accepted), running = running + excluded.running,"
    " stale = stale + excluded.stale"
)
_ADD = "INSERT INTO policies (name, spec, declared) VALUES (?, ?, ?)"
_SET = "UPDATE policies SET spec = ?, version = ?, paused = ?, pauses = ? WHERE name = ?"
# Due time of tasks parked for their policy; never reached. ``budgets.FOREVER`` is later.
PARKED = 5e14
_UNIT = "coalesce('group ' || m.group_id, 'task ' || t.id)"
_TASKS = "tasks t LEFT JOIN group_members m ON m.task_id = t.id"
_MEMBERS = "SELECT task_id FROM group_members WHERE group_id = ?2"
_BEGUN = f"EXISTS (SELECT 1 FROM policy_units WHERE unit = {_UNIT})"
_UNIT_OF = f"SELECT m.group_id, t.cancelled, {_BEGUN} FROM {_TASKS} WHERE t.id = ?"
_PARK = (
    f"UPDATE tasks SET state = {DELAYED}, due = ?1 WHERE seq IN (SELECT t.seq FROM {_TASKS}"
    f" WHERE t.qid = ?2 AND t.state = {WAITING} AND NOT t.cancelled AND NOT {_BEGUN})"
)
_ANY_PARKED = f"SELECT EXISTS (SELECT 1 FROM tasks WHERE state = {DELAYED} AND due = ?)"
_PARKED_UNITS = (
    f"SELECT {_UNIT} AS unit, min(t.priority), min(t.seq) FROM {_TASKS} JOIN queues q USING (qid)"
    f" JOIN policy_followers f ON f.collection = q.collection WHERE t.state = {DELAYED}"
    " AND t.due = ? AND f.policy = ? GROUP BY unit ORDER BY 2, 3 LIMIT ?"
)
# Sorts before every possible priority.
_FIRST = -(2**63)
_UNENDED = "SELECT task_id FROM group_members WHERE group_id = ? AND ended = 0"
_FOLLOW = (
    "INSERT INTO policy_followers VALUES (?, ?)"
    " ON CONFLICT (collection) DO UPDATE SET policy = excluded.policy"
)


def read_policies(db: sqlite3.Connection) -> tuple[PolicyState, ...]:
    """Return all policies, sorted by name."""
    rows = db.execute(f"{_SELECT} ORDER BY name").fetchall()
    return tuple(readable("policies", rows, _state))


def _state(row: Sequence[Any]) -> PolicyState:
    spec, version, paused, *counts = row
    return PolicyState(PolicySpec.decode(spec), int(version), bool(paused), *map(int, counts))


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
        db.execute(_COUNT, (name, after.accepted - state.accepted, 0, len(stale)))
        open_gate(db, name)
    return after


def read_policy(db: sqlite3.Connection, name: str) -> PolicyState | None:
    """Return one policy; None if it does not exist."""
    rows = db.execute(f"{_SELECT} WHERE name = ?", (name,)).fetchall()
    return next(readable("policies", rows, _state), None)


def policy_ahead(db: sqlite3.Connection, collection: str | None, due: float) -> PolicyState | None:
    """Return the policy that parked a task of this collection; None if it is not parked so."""
    if due != PARKED:
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


def open_gate(db: sqlite3.Connection, name: str) -> None:
    """Unpark as many units as may start now, in claim order."""
    state = read_policy(db, name)
    if state is None or not db.execute(_ANY_PARKED, (PARKED,)).fetchone()[0]:
        return
    room = -1 if state.room is None else max(0, state.room)  # -1: no limit.
    units = [unit for unit, *_ in db.execute(_PARKED_UNITS, (PARKED, name, room))]
    for unit in units:
        _unpark(db, unit)


def _unpark(db: sqlite3.Connection, unit: str) -> None:
    """Make the unit's tasks due; the next claim moves them to waiting."""
    kind, _, name = unit.partition(" ")
    ids = "SELECT ?2" if kind == "task" else _MEMBERS
    due = f"UPDATE tasks SET due = 0.0 WHERE state = {DELAYED} AND due = ?1 AND id IN ({ids})"
    db.execute(due, (PARKED, name))


def end_unit(db: sqlite3.Connection, unit: str, *, accepted: bool) -> None:
    """Count an ended unit for its policy. If it was not accepted, another may start instead."""
    query = "DELETE FROM policy_units WHERE unit = ? RETURNING policy"
    row = db.execute(query, (unit,)).fetchone()
    if row is None:
        return
    db.execute(_COUNT, (row[0], accepted, -1, 0))
    if not accepted:
        open_gate(db, row[0])


class Gates:
    """How many units each policy may start, for one claim."""

    def __init__(self, db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT collection, policy FROM policy_followers").fetchall()
        states = {it.name: it for it in read_policies(db)} if rows else {}
        self._db = db
        self._rooms = {name: it.room for name, it in states.items() if it.room is not None}
        self._policies = {of: policy for of, policy in rows if policy in self._rooms}

    def __bool__(self) -> bool:
        return bool(self._policies)

    def keep_back(self, qid: int, rows: Sequence[tuple[int, int, str]]) -> bool:
        """Start the units of these selected tasks, as far as the policy has room.

        Returns whether it parked the rest of the queue: then the caller must select tasks again.
        """
        query = "SELECT collection FROM queues WHERE qid = ?"
        policy = self._policies.get(self._db.execute(query, (qid,)).fetchone()[0])
        if policy is None:
            return False
        new = dict.fromkeys(filter(None, (self._unbegun(task_id) for *_, task_id in rows)))
        fitting = list(new)[: max(0, self._rooms[policy])]
        for unit in fitting:
            self._begin(policy, unit)
        return len(fitting) < len(new) and self._park(qid)

    def _unbegun(self, task_id: str) -> str | None:
        """Return the task's unit; None if the unit has started or the task is cancelled."""
        group, cancelled, begun = self._db.execute(_UNIT_OF, (task_id,)).fetchone()
        unit = f"task {task_id}" if group is None else f"group {group}"
        return None if cancelled or begun else unit

    def _begin(self, policy: str, unit: str) -> None:
        self._rooms[policy] -= 1
        self._db.execute("INSERT INTO policy_units VALUES (?, ?)", (unit, policy))
        self._db.execute(_COUNT, (policy, 0, 1, 0))
        _unpark(self._db, unit)

    def _park(self, qid: int) -> bool:
        parked = self._db.execute(_PARK, (PARKED, qid)).rowcount
        self._db.execute(
            "UPDATE queues SET waiting = waiting - ?1, delayed = delayed + ?1 WHERE qid = ?2",
            (parked, qid),
        )
        return parked > 0


def cancel_rest(db: sqlite3.Connection, group_id: str) -> None:
    """Cancel the group's open members; waiting ones are claimed before all others, and not run."""
    db.execute(
        f"UPDATE tasks SET cancelled = 1, priority = {_FIRST},"
        " due = CASE WHEN state = 1 THEN 0.0 ELSE due END"
        f" WHERE state < {SETTLED} AND id IN ({_UNENDED})",
        (group_id,),
    )


class PolicyNews:
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
        self._db.execute(due, (PARKED,))
        for collection, policy in self._follow.items():
            if policy is None:
                self._db.execute("DELETE FROM policy_followers WHERE collection = ?", (collection,))
            else:
                self._db.execute(_FOLLOW, (collection, policy))

"""Units of policies: groups, or tasks without one, that start only while their policy has room.

Tasks of a unit that may not start yet are parked when they are about to be claimed: delayed
forever, so that no later claim has to skip them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.sqlite.policies import COUNT_UNITS, read_policies, read_policy
from agentpipe.brokers.sqlite.queries import DELAYED, PARKED_BY_POLICY, WAITING

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

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


class UnitStarts:
    """How many units each policy may start, for one claim."""

    def __init__(self, db: sqlite3.Connection) -> None:
        rows = db.execute("SELECT collection, policy FROM policy_followers").fetchall()
        states = {it.name: it for it in read_policies(db)} if rows else {}
        self._db = db
        self._rooms = {name: it.room for name, it in states.items() if it.room is not None}
        self._policies = {of: policy for of, policy in rows if policy in self._rooms}

    def __bool__(self) -> bool:
        return bool(self._policies)

    def start_or_park(self, qid: int, rows: Sequence[tuple[int, int, str]]) -> bool:
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
        self._db.execute(COUNT_UNITS, (policy, 0, 1, 0))
        _unpark_unit(self._db, unit)

    def _park(self, qid: int) -> bool:
        parked = self._db.execute(_PARK, (PARKED_BY_POLICY, qid)).rowcount
        self._db.execute(
            "UPDATE queues SET waiting = waiting - ?1, delayed = delayed + ?1 WHERE qid = ?2",
            (parked, qid),
        )
        return parked > 0


def unpark_units(db: sqlite3.Connection, name: str) -> None:
    """Unpark as many units as may start now, in claim order."""
    state = read_policy(db, name)
    if state is None or not db.execute(_ANY_PARKED, (PARKED_BY_POLICY,)).fetchone()[0]:
        return
    room = -1 if state.room is None else max(0, state.room)  # -1: no limit.
    units = [unit for unit, *_ in db.execute(_PARKED_UNITS, (PARKED_BY_POLICY, name, room))]
    for unit in units:
        _unpark_unit(db, unit)


def _unpark_unit(db: sqlite3.Connection, unit: str) -> None:
    """Make the unit's tasks due; the next claim moves them to waiting."""
    kind, _, name = unit.partition(" ")
    ids = "SELECT ?2" if kind == "task" else _MEMBERS
    due = f"UPDATE tasks SET due = 0.0 WHERE state = {DELAYED} AND due = ?1 AND id IN ({ids})"
    db.execute(due, (PARKED_BY_POLICY, name))


def end_unit(db: sqlite3.Connection, unit: str, *, accepted: bool) -> None:
    """Count an ended unit for its policy. If it was not accepted, another may start instead."""
    query = "DELETE FROM policy_units WHERE unit = ? RETURNING policy"
    row = db.execute(query, (unit,)).fetchone()
    if row is None:
        return
    db.execute(COUNT_UNITS, (row[0], accepted, -1, 0))
    if not accepted:
        unpark_units(db, row[0])

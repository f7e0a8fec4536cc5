"""Groups of the embedded store: accepted whole, counted in the transactions that end members."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.location import GroupSeen
from agentpipe.brokers.records import MemberEnd
from agentpipe.brokers.sqlite import runs
from agentpipe.brokers.sqlite.admission import admit, known_ids
from agentpipe.brokers.sqlite.policy_units import end_unit
from agentpipe.brokers.sqlite.queries import DELAYED, RUNNING, SETTLED, WAITING
from agentpipe.brokers.statistics import GroupCounts
from agentpipe.core.groups import GroupEnd, status_of

if TYPE_CHECKING:
    import sqlite3
    from collections import Counter
    from collections.abc import Mapping, Sequence

    from agentpipe.brokers.records import Group, Offer, Verdict
    from agentpipe.brokers.sqlite.admission import Rooms

# Whether any group is open or any policy counts a running unit.
HAS_MEMBERS = "(EXISTS (SELECT 1 FROM task_groups) OR EXISTS (SELECT 1 FROM policy_units))"
_ADD_MEMBER = "INSERT INTO group_members (task_id, group_id, place) VALUES (?, ?, ?)"
_COUNT = (
    "UPDATE task_groups SET left = left - 1, good = good + ?2, cancelled = max(cancelled, ?3),"
    " oldest = min(coalesce(oldest, ?4), coalesce(?4, oldest)),"
    " newest = max(coalesce(newest, ?5), coalesce(?5, newest))"
    " WHERE group_id = ?1 RETURNING need, repairs, left, good"
)
# Sorts before every possible priority.
_FIRST = -(2**63)
_UNENDED = "SELECT task_id FROM group_members WHERE group_id = ? AND ended = 0"
_NO_GOOD = MemberEnd()
_PLACES = {WAITING: "waiting", DELAYED: "delayed", RUNNING: "running"}


@dataclass(frozen=True, slots=True)
class EndedTask:
    """A task whose Result was just put into the outbox."""

    task_id: str
    qid: int
    outcome: str


def offer_groups(
    db: sqlite3.Connection, groups: Sequence[Group], rooms: Rooms, moment: float
) -> list[Verdict]:
    """Accept each group as a whole or not at all, and store the accepted ones."""
    known = known_ids(db, [offer.task_id for group in groups for offer in group.offers])
    living, left = _living(db, groups), rooms.room
    verdicts: list[Verdict] = []
    admitted: list[tuple[Offer, int]] = []
    for group in groups:
        ids = [offer.task_id for offer in group.offers]
        if group.group_id in living or not known.isdisjoint(ids):
            verdicts.append("duplicate")
        elif len(ids) > left:
            verdicts.append("refused")
        else:
            left -= len(ids)
            living.add(group.group_id)
            known.update(ids)
            admitted += [(offer, rooms.sure_queue()) for offer in group.offers]
            _keep(db, group)
            verdicts.append("accepted")
    if admitted:
        admit(db, admitted, moment)
        runs.count_accepted(db, [offer.task_id for offer, _ in admitted])
        rooms.advance()
    return verdicts


def _living(db: sqlite3.Connection, groups: Sequence[Group]) -> set[str]:
    names = orjson.dumps([group.group_id for group in groups]).decode()
    query = "SELECT group_id FROM task_groups WHERE group_id IN (SELECT value FROM json_each(?))"
    return {name for (name,) in db.execute(query, (names,))}


def _keep(db: sqlite3.Connection, group: Group) -> None:
    row = (group.group_id, group.need, group.repairs, len(group.offers))
    db.execute("INSERT INTO task_groups (group_id, need, repairs, left) VALUES (?, ?, ?, ?)", row)
    members = enumerate(offer.task_id for offer in group.offers)
    db.executemany(_ADD_MEMBER, [(task_id, group.group_id, place) for place, task_id in members])


def end_member(
    db: sqlite3.Connection,
    ended: EndedTask,
    member: MemberEnd | None,
    changes: Counter[str],
    moment: float,
) -> None:
    """Count an ended task for its group, or for its policy if it has no group.

    Args:
        db: The connection, in the transaction that ends the task.
        ended: The task.
        member: How it ended as a member; None if it never ran.
        changes: Collects counter changes.
        moment: The store's time.
    """
    group_id = _group_of(db, ended.task_id)
    if group_id is None:
        end_unit(db, f"task {ended.task_id}", accepted=ended.outcome == "ok")
        return
    end = member or _NO_GOOD
    changes["group:wasted"] += not end.good
    oldest, newest = (end.versions[0], end.versions[-1]) if end.versions else (None, None)
    cancelled = ended.outcome == "cancelled"
    need, repairs, left, good = db.execute(
        _COUNT, (group_id, end.good, cancelled, oldest, newest)
    ).fetchone()
    if end.good and good == need:
        cancel_rest(db, group_id)
    may_repair = good < need and repairs > 0
    if may_repair and end.repair and _repair(db, ended, end.repair, group_id, moment):
        return
    if not left:
        _end_group(db, group_id, changes)


def cancel_rest(db: sqlite3.Connection, group_id: str) -> None:
    """Cancel the group's open members; waiting ones are claimed before all others, and not run."""
    db.execute(
        f"UPDATE tasks SET cancelled = 1, priority = {_FIRST},"
        " due = CASE WHEN state = 1 THEN 0.0 ELSE due END"
        f" WHERE state < {SETTLED} AND id IN ({_UNENDED})",
        (group_id,),
    )


def _group_of(db: sqlite3.Connection, task_id: str) -> str | None:
    row = db.execute(
        "UPDATE group_members SET ended = 1 WHERE task_id = ? AND ended = 0 RETURNING group_id",
        (task_id,),
    ).fetchone()
    return None if row is None else str(row[0])


def _repair(
    db: sqlite3.Connection, ended: EndedTask, offer: Offer, group_id: str, moment: float
) -> bool:
    """Replace the member by another task, even in a full queue, because the group waits for it.

    Returns False if a task with that id was submitted before.
    """
    if known_ids(db, [offer.task_id]):
        return False
    admit(db, [(offer, ended.qid)], moment)
    runs.count_accepted(db, [offer.task_id])
    db.execute(
        "UPDATE group_members SET task_id = ?, ended = 0 WHERE task_id = ?",
        (offer.task_id, ended.task_id),
    )
    db.execute(
        "UPDATE task_groups SET left = left + 1, repairs = repairs - 1 WHERE group_id = ?",
        (group_id,),
    )
    return True


def _end_group(db: sqlite3.Connection, group_id: str, changes: Counter[str]) -> None:
    """Put its record into the outbox and delete the group; its tasks' ids stay remembered."""
    need, good, cancelled, oldest, newest = db.execute(
        "DELETE FROM task_groups WHERE group_id = ?"
        " RETURNING need, good, cancelled, oldest, newest",
        (group_id,),
    ).fetchone()
    members = db.execute(
        "SELECT task_id FROM group_members WHERE group_id = ? ORDER BY place", (group_id,)
    ).fetchall()
    db.execute("DELETE FROM group_members WHERE group_id = ?", (group_id,))
    status = status_of(good, need, cancelled=bool(cancelled))
    end_unit(db, f"group {group_id}", accepted=status == "complete")
    record = GroupEnd(
        group_id,
        status,
        good,
        tuple(task_id for (task_id,) in members),
        () if oldest is None else (oldest, newest),
    ).encode()
    number = db.execute(
        "INSERT INTO outbox (task_id, bytes) VALUES (?, ?)", (group_id, len(record))
    ).lastrowid
    db.execute("INSERT INTO outbox_bodies VALUES (?, ?)", (number, record))
    db.execute("INSERT INTO group_records VALUES (?)", (number,))
    goods = "group:counted" if status == "complete" else "group:wasted"
    changes.update({"outbox": 1, "outbox_bytes": len(record), f"group:{status}": 1, goods: good})


def group_seen(db: sqlite3.Connection, name: str) -> GroupSeen | None:
    """Return the group with this id, or the one that the task is an open member of."""
    query = "SELECT group_id FROM group_members WHERE task_id = ? AND ended = 0"
    of = db.execute(query, (name,)).fetchone()
    group_id = name if of is None else of[0]
    row = db.execute(
        "SELECT need, repairs, good FROM task_groups WHERE group_id = ?", (group_id,)
    ).fetchone()
    if row is None:
        return None
    members = db.execute(
        "SELECT task_id, m.ended, t.state FROM group_members m LEFT JOIN tasks t ON t.id = task_id"
        " WHERE group_id = ? ORDER BY place",
        (group_id,),
    ).fetchall()
    places = {each: _PLACES.get(state, "") for each, ended, state in members if not ended}
    return GroupSeen.of((group_id, *row), len(members), places)


def read_counts(db: sqlite3.Connection, counters: Mapping[str, int]) -> GroupCounts:
    """Return the groups' counts by state."""
    (living,) = db.execute("SELECT count(*) FROM task_groups").fetchone()
    (records,) = db.execute("SELECT count(*) FROM group_records").fetchone()
    return GroupCounts.of(living, counters, records)


def forget_records(db: sqlite3.Connection, numbers: Sequence[int]) -> int:
    """Delete the marks of group records; returns how many of these outbox numbers were ones."""
    query = "DELETE FROM group_records WHERE seq IN (SELECT value FROM json_each(?))"
    return db.execute(query, (orjson.dumps(list(numbers)).decode(),)).rowcount

"""Reading: unsettled tasks for operators."""

from __future__ import annotations

from typing import TYPE_CHECKING

import orjson

from agentpipe.brokers.capabilities import TaskSeen

if TYPE_CHECKING:
    import sqlite3

    from agentpipe.brokers.capabilities import TaskQuery

# Running tasks are few and have an index. The plus keeps SQLite from scanning all tasks by ``seq``.
_STATES = {
    "unclaimed": ("t.state IN (0, 1)", "t.seq"),
    "running": ("t.state = 2 AND t.worker IS NOT NULL", "+t.seq"),
}
_SELECT = (
    "SELECT t.seq, t.id, q.name, p.body, t.submitted_at"
    " FROM tasks t JOIN queues q USING (qid) JOIN payloads p USING (seq)"
)
_OF_LIST = "IN (SELECT value FROM json_each(?))"


def read_tasks(db: sqlite3.Connection, query: TaskQuery) -> list[TaskSeen]:
    """See ``ReadsTasks.tasks``."""
    condition, number = _STATES[query.state]
    conditions, values = [condition, f"{number} > ?"], list[int | str]([query.after])
    for column, wanted in (("q.name", query.queues), ("t.id", query.task_ids)):
        if wanted is not None:
            conditions.append(f"{column} {_OF_LIST}")
            values.append(orjson.dumps(list(wanted)).decode())
    values.append(-1 if query.limit is None else query.limit)
    where = " AND ".join(conditions)
    return [
        TaskSeen(*it)
        for it in db.execute(f"{_SELECT} WHERE {where} ORDER BY {number} LIMIT ?", values)
    ]

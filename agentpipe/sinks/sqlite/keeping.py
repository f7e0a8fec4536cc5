"""Keeping: stores one Result of each submission.

A digest says what is stored once: a Result's submission, or the bytes of any other record. Earlier
versions digested the bytes of Results too, so these are read to learn their submissions.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from agentpipe.connections.sqlite_rows import execute_rows
from agentpipe.core import caps
from agentpipe.sinks.sqlite.last_keys import keys_from

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from agentpipe.sinks.base import Record

_COLLECTOR = "collector"
# The two kinds of digests differ in length, as earlier versions' do from a submission's.
_SUBMISSION_BYTES, _RECORD_BYTES = 16, 8
_SUBMITTED_AT = b',"submitted_at":'
# Not OR IGNORE, which would lose a record that breaks any other constraint.
_INSERT = (
    "INSERT INTO records (task_id, digest, body, published_at)"
    " SELECT column1, column2, column3, column4 FROM (VALUES {}) WHERE NOT EXISTS"
    " (SELECT 1 FROM trimmed WHERE task_id = column1 AND digest = column2)"
    " ON CONFLICT (task_id, digest) DO NOTHING"
)
_IS_EARLIER = f"length(digest) <> {_SUBMISSION_BYTES}"
_HAVE_EARLIER = (
    "SELECT value FROM json_each(?)"
    f" WHERE EXISTS (SELECT 1 FROM records WHERE task_id = value AND {_IS_EARLIER})"
    f" OR EXISTS (SELECT 1 FROM trimmed WHERE task_id = value AND {_IS_EARLIER})"
)


class Row(NamedTuple):
    """A record and its digest."""

    task_id: str
    digest: bytes
    payload: bytes


def rows_of(records: Iterable[Record]) -> list[Row]:
    """The rows of records; call it before the transaction, as it reads the payloads."""
    return [Row(each.task_id, _digest(each.payload), each.payload) for each in records]


def insert(db: sqlite3.Connection, rows: Sequence[Row], published_at: float) -> int:
    """Store the rows that neither are nor were stored; returns how many."""
    before = db.total_changes
    new = [(*row, published_at) for row in _without_earlier(db, rows)]
    execute_rows(db, _INSERT, new)
    return db.total_changes - before


def _without_earlier(db: sqlite3.Connection, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows without those that an earlier version has stored."""
    ids = orjson.dumps([row.task_id for row in rows]).decode()
    found = {task_id for (task_id,) in db.execute(_HAVE_EARLIER, (ids,))}
    known = {task_id: _earlier_digests(db, task_id) for task_id in found}
    return [
        row
        for row in rows
        if row.task_id not in known
        or known[row.task_id].isdisjoint((row.digest, _digest_of_bytes(row.payload)))
    ]


def _earlier_digests(db: sqlite3.Connection, task_id: str) -> set[bytes]:
    """The digests that an id's earlier records would have now, or had when they were removed."""
    trimmed = db.execute(
        f"SELECT CAST(digest AS BLOB) FROM trimmed WHERE task_id = ? AND {_IS_EARLIER}", (task_id,)
    )
    bodies = db.execute(
        "SELECT CAST(body AS BLOB) FROM records"
        f" WHERE task_id = ? AND {_IS_EARLIER} AND length(body) <= ?",
        (task_id, caps.MAX_RECORD_BYTES),
    )
    return {digest for (digest,) in trimmed} | {_digest(body) for (body,) in bodies}


def _digest(payload: bytes) -> bytes:
    found = keys_from(payload, _SUBMITTED_AT)
    if not _is_result(found):
        return _digest_of_bytes(payload)
    # As ``submission_of`` of a Result.
    submission = None if found.get("replay_of") else found.get("submitted_at")
    return hashlib.blake2b(orjson.dumps(submission), digest_size=_SUBMISSION_BYTES).digest()


def _is_result(found: Any) -> bool:
    """Whether a Result ends with these keys."""
    if not isinstance(found, dict) or not isinstance(found.get("submitted_at", ""), str | None):
        return False
    return "submitted_at" in found or "task_id" in found


def _digest_of_bytes(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_RECORD_BYTES).digest()


def collector_of(db: sqlite3.Connection) -> str:
    """The file's own group for collecting; a new file starts over, a copied file continues."""
    row = db.execute("SELECT position FROM marks WHERE name = ?", (_COLLECTOR,)).fetchone()
    number = row[0] if row else secrets.randbits(62)
    if row is None:
        db.execute("INSERT INTO marks VALUES (?, ?)", (_COLLECTOR, number))
    return f"agentpipe-archive-{number:015x}"

"""Keeping: stores one Result of each submission.

A digest says what is stored once: a Result's submission, or the bytes of any other record. Earlier
versions digested the bytes of Results too, so these are read to learn their submissions. A verdict
that was removed is known by its bytes: its answer can be judged anew. Who publishes a verdict has
just judged, and wants it back; who copies a stream can meet an old one again.
"""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from agentpipe.connections.sqlite_rows import execute_rows
from agentpipe.core import caps
from agentpipe.core.result import Result
from agentpipe.errors import FormatError
from agentpipe.sinks.sqlite.last_keys import keys_from

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Iterable, Sequence

    from agentpipe.sinks.base import Record

_COLLECTOR = "collector"
# The two kinds of digests differ in length.
_SUBMISSION_BYTES, _RECORD_BYTES = 16, 8
_SUBMITTED_AT = b',"submitted_at":'
# Not OR IGNORE, which would lose a record that breaks any other constraint.
_INSERT = (
    "INSERT INTO records (task_id, digest, body, published_at)"
    " SELECT column1, column2, column3, column4 FROM (VALUES {}) WHERE NOT EXISTS"
    " (SELECT 1 FROM trimmed WHERE task_id = column1 AND digest = column2)"
    " ON CONFLICT (task_id, digest) DO NOTHING"
)
_IS_OF_BYTES = f"length(digest) <> {_SUBMISSION_BYTES}"
_ARE_KNOWN_BY_BYTES = (
    "SELECT value FROM json_each(?)"
    f" WHERE EXISTS (SELECT 1 FROM records WHERE task_id = value AND {_IS_OF_BYTES})"
    f" OR EXISTS (SELECT 1 FROM trimmed WHERE task_id = value AND {_IS_OF_BYTES})"
)


class Row(NamedTuple):
    """A record and its digest.

    Attributes:
        is_verdict: Whether it is an answer that was judged again.
    """

    task_id: str
    digest: bytes
    payload: bytes
    is_verdict: bool


def rows_of(records: Iterable[Record]) -> list[Row]:
    """The rows of records; call it before the transaction, as it reads the payloads."""
    return [_row_of(each.task_id, each.payload) for each in records]


def _row_of(task_id: str, payload: bytes) -> Row:
    found = keys_from(payload, _SUBMITTED_AT)
    return Row(task_id, _digest(found, payload), payload, _is_verdict(found))


def recall_verdicts(db: sqlite3.Connection, rows: Iterable[Row]) -> None:
    """Forget that verdicts were removed, so that ``insert`` stores them again."""
    verdicts = [
        (row.task_id, row.digest, _digest_of_bytes(row.payload)) for row in rows if row.is_verdict
    ]
    db.executemany("DELETE FROM trimmed WHERE task_id = ? AND digest IN (?, ?)", verdicts)


def insert(db: sqlite3.Connection, rows: Sequence[Row], published_at: float) -> int:
    """Store the rows that neither are nor were stored; returns how many."""
    before = db.total_changes
    new = [
        (row.task_id, row.digest, row.payload, published_at)
        for row in _without_known_bytes(db, rows)
    ]
    execute_rows(db, _INSERT, new)
    return db.total_changes - before


def _without_known_bytes(db: sqlite3.Connection, rows: Sequence[Row]) -> Sequence[Row]:
    """The rows without those that only the bytes of their id's records tell to be known."""
    ids = orjson.dumps([row.task_id for row in rows]).decode()
    found = {task_id for (task_id,) in db.execute(_ARE_KNOWN_BY_BYTES, (ids,))}
    known = {task_id: _digests_of_known_bytes(db, task_id) for task_id in found}
    return [
        row
        for row in rows
        if row.task_id not in known
        or known[row.task_id].isdisjoint((row.digest, _digest_of_bytes(row.payload)))
    ]


def _digests_of_known_bytes(db: sqlite3.Connection, task_id: str) -> set[bytes]:
    """Digests of what an id has that is known by its bytes: as removed, and as it would be kept."""
    trimmed = db.execute(
        f"SELECT CAST(digest AS BLOB) FROM trimmed WHERE task_id = ? AND {_IS_OF_BYTES}", (task_id,)
    )
    bodies = db.execute(
        "SELECT CAST(body AS BLOB) FROM records"
        f" WHERE task_id = ? AND {_IS_OF_BYTES} AND length(body) <= ?",
        (task_id, caps.MAX_RECORD_BYTES),
    )
    return {digest for (digest,) in trimmed} | {_row_of(task_id, body).digest for (body,) in bodies}


def digest_if_removed(payload: bytes, digest: bytes) -> bytes:
    """What tells a removed record when it is published again."""
    is_verdict = _is_verdict(keys_from(payload, _SUBMITTED_AT))
    return _digest_of_bytes(payload) if is_verdict else digest


def _is_verdict(found: Any) -> bool:
    return isinstance(found, dict) and found.get("rescored_of") is not None


def _digest(found: Any, payload: bytes) -> bytes:
    if not _is_of_result(found, payload):
        return _digest_of_bytes(payload)
    # As ``submission_of`` of a Result.
    submission = None if found.get("replay_of") else found.get("submitted_at")
    return hashlib.blake2b(orjson.dumps(submission), digest_size=_SUBMISSION_BYTES).digest()


def _is_of_result(found: Any, payload: bytes) -> bool:
    """Whether these last keys are a Result's; without the submission's, all of it is read."""
    if not isinstance(found, dict):
        return False
    if "submitted_at" in found:
        return isinstance(found["submitted_at"], str | None)
    try:
        Result.decode(payload)
    except FormatError:
        return False
    return True


def _digest_of_bytes(payload: bytes) -> bytes:
    return hashlib.blake2b(payload, digest_size=_RECORD_BYTES).digest()


def collector_of(db: sqlite3.Connection) -> str:
    """The file's own group for collecting; a new file starts over, a copied file continues."""
    row = db.execute("SELECT position FROM marks WHERE name = ?", (_COLLECTOR,)).fetchone()
    number = row[0] if row else secrets.randbits(62)
    if row is None:
        db.execute("INSERT INTO marks VALUES (?, ?)", (_COLLECTOR, number))
    return f"agentpipe-archive-{number:015x}"

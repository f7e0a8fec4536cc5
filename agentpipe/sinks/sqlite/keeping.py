"""Keeping: stores one Result of each submission."""

from __future__ import annotations

import hashlib
import secrets
from typing import TYPE_CHECKING

import orjson

from agentpipe.connections.sqlite_rows import execute_rows
from agentpipe.core import caps
from agentpipe.sinks.seen import names_submission, submission_in

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from agentpipe.sinks.base import Record

_COLLECTOR = "collector"
# Not OR IGNORE, which would lose a record that breaks any other constraint.
_INSERT = (
    "INSERT INTO records (task_id, digest, body, published_at)"
    " SELECT column1, column2, column3, column4 FROM (VALUES {}) WHERE NOT EXISTS"
    " (SELECT 1 FROM trimmed WHERE task_id = column1 AND digest = column2)"
    " ON CONFLICT (task_id, digest) DO NOTHING"
)

_ARE_STORED = (
    "SELECT EXISTS (SELECT 1 FROM json_each(?) CROSS JOIN records WHERE records.task_id = value)"
)


def insert(db: sqlite3.Connection, records: Sequence[Record], published_at: float) -> None:
    """Add the records that are not stored yet in exactly this form, or were and are trimmed."""
    rows = [(each.task_id, _digest(each), each.payload, published_at) for each in records]
    execute_rows(db, _INSERT, rows)


def without_repeats(db: sqlite3.Connection, records: Sequence[Record]) -> list[Record]:
    """The records to store: only the first Result of each submission, also if its task ran again.

    All records that name no submission are stored.
    """
    ids = [record.task_id for record in records]
    (are_stored,) = db.execute(_ARE_STORED, (orjson.dumps(ids).decode(),)).fetchone()
    if not are_stored and len(set(ids)) == len(ids):
        return list(records)
    named = [it for it in records if names_submission(it.payload)]
    repeats = {id(it) for it in named} - {id(it) for it in unknown(db, named)}
    return [it for it in records if id(it) not in repeats]


def unknown(db: sqlite3.Connection, records: Sequence[Record]) -> list[Record]:
    """The records of submissions without a stored Result; of repeats in ``records``, the first."""
    found: dict[str, list[Record]] = {}
    for record in records:
        others = found.get(record.task_id, [])
        if not _is_one_of(record, [each.payload for each in others]) and not _is_here(db, record):
            found[record.task_id] = [*others, record]
    return [record for each in found.values() for record in each]


def _is_here(db: sqlite3.Connection, record: Record) -> bool:
    rows = db.execute(
        "SELECT CAST(body AS BLOB) FROM records WHERE task_id = ? AND length(body) <= ?",
        (record.task_id, caps.MAX_RECORD_BYTES),
    ).fetchall()
    return _is_one_of(record, [body for (body,) in rows])


def _is_one_of(record: Record, payloads: Sequence[bytes]) -> bool:
    if not payloads or record.payload in payloads:
        return bool(payloads)
    submission = submission_in(record.payload)
    return submission in {submission_in(payload) for payload in payloads}


def collector_of(db: sqlite3.Connection) -> str:
    """The file's own group for collecting; a new file starts over, a copied file continues."""
    row = db.execute("SELECT position FROM marks WHERE name = ?", (_COLLECTOR,)).fetchone()
    number = row[0] if row else secrets.randbits(62)
    if row is None:
        db.execute("INSERT INTO marks VALUES (?, ?)", (_COLLECTOR, number))
    return f"agentpipe-archive-{number:015x}"


def _digest(record: Record) -> bytes:
    """Distinguishes a republished Result from another run's Result of the same task."""
    return hashlib.blake2b(record.payload, digest_size=8).digest()

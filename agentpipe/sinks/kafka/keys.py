"""Keys: the partition of a record, and the task that it belongs to.

All records of a sample group have the group's key, so they are in one partition, in the order of
publication: one reader gets them all. The task's id is then in a header.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from agentpipe.core.groups import group_in
from agentpipe.sinks.kafka.record_batch import BatchRecord, encoded_headers

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.sinks.base import Record

TASK_ID = "task_id"
_NO_HEADERS = encoded_headers(())
_SEED, _FACTOR, _BITS = 0x9747B28C, 0x5BD1E995, 0xFFFFFFFF


def message_of(place: int, record: Record, value: bytes) -> BatchRecord:
    """The message for a record, with its payload or a cut of it as the value."""
    group = group_in(record.payload)
    task_id = record.task_id.encode()
    if group is None:
        return BatchRecord(place, task_id, value, _NO_HEADERS)
    return BatchRecord(place, group.encode(), value, encoded_headers([(TASK_ID, task_id)]))


def task_id_of(key: bytes | None, headers: Sequence[tuple[str, bytes | None]]) -> str:
    """The task id of a record; for foreign records, the key."""
    named = next((value for name, value in headers if name == TASK_ID), None)
    return (named or key or b"").decode(errors="backslashreplace")


def partition_of(key: bytes, number: int) -> int:
    """The partition for a key among ``number``, as all Kafka clients choose it."""
    return (_murmur2(key) & 0x7FFFFFFF) % number


def _murmur2(data: bytes) -> int:
    whole = len(data) // 4
    mixed = _SEED ^ len(data)
    for word in struct.unpack_from(f"<{whole}I", data):
        scaled = word * _FACTOR & _BITS
        mixed = (mixed * _FACTOR & _BITS) ^ ((scaled ^ scaled >> 24) * _FACTOR & _BITS)
    if tail := data[4 * whole :]:
        mixed = (mixed ^ int.from_bytes(tail, "little")) * _FACTOR & _BITS
    mixed = (mixed ^ mixed >> 13) * _FACTOR & _BITS
    return mixed ^ mixed >> 15

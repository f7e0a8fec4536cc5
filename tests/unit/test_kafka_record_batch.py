"""Kafka's client reads what the producer writes, writes the same, and picks the same partition."""

from __future__ import annotations

import os
import random
from typing import Any

import pytest
from kafka.partitioner.default import murmur2
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder

from agentpipe.core.groups import GroupEnd
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.sinks.base import Record
from agentpipe.sinks.kafka.keys import message_of, partition_of, task_id_of
from agentpipe.sinks.kafka.record_batch import (
    BatchRecord,
    Compression,
    Numbers,
    encode,
    encoded_headers,
)

HEADERS: list[list[tuple[str, bytes]]] = [
    [],
    [("task_id", b"t-1")],
    [("ä", b""), ("b", b"x" * 200)],
]
# Lengths encoded in one, two and three bytes; and a record count of more than seven bits.
SIZES = [0, 1, 63, 64, 8_191, 8_192, 1_048_576]


def written(*values: bytes, headers: Any = (), compression: str | None = None) -> bytearray:
    messages = [
        BatchRecord(index, f"key-{index}".encode(), value, encoded_headers(headers))
        for index, value in enumerate(values)
    ]
    return encode(messages, Numbers(7_000_000_000, 3, 2**31 - 2), Compression.named(compression))


def read(batch: bytearray) -> tuple[Any, list[Any]]:
    records = MemoryRecords(bytes(batch))
    found = records.next_batch()
    assert records.next_batch() is None
    assert found.validate_crc()
    return found, list(found)


@pytest.mark.parametrize("compression", [None, "gzip"])
@pytest.mark.parametrize("headers", HEADERS)
def test_the_client_reads_what_was_meant(compression: str | None, headers: Any) -> None:
    values = [bytes(size) for size in SIZES] + [b"x"] * 200
    batch, found = read(written(*values, headers=headers, compression=compression))
    assert [each.value for each in found] == values
    assert [each.key for each in found] == [f"key-{at}".encode() for at in range(len(values))]
    assert [each.offset for each in found] == list(range(len(values)))
    assert {tuple(each.headers) for each in found} == {tuple(headers)}
    assert len({each.timestamp for each in found}) == 1
    numbers = (batch.producer_id, batch.producer_epoch, batch.base_sequence)
    assert numbers == (7_000_000_000, 3, 2**31 - 2)
    assert not batch.is_transactional
    assert batch.compression_type == (1 if compression else 0)


@pytest.mark.parametrize("headers", HEADERS)
def test_the_client_writes_the_same_bytes(headers: Any) -> None:
    values = [os.urandom(size) for size in SIZES]
    ours = written(*values, headers=headers)
    _, (first, *_) = read(ours)
    builder = DefaultRecordBatchBuilder(2, 0, False, 7_000_000_000, 3, 2**31 - 2, 2**24)
    for offset, value in enumerate(values):
        builder.append(offset, first.timestamp, f"key-{offset}".encode(), value, headers)
    assert bytes(builder.build()) == bytes(ours)


def test_what_compression_makes_larger_stays_as_it_is() -> None:
    value = os.urandom(2_000)
    batch, (found,) = read(written(value, compression="gzip"))
    assert batch.compression_type == 0
    assert found.value == value


def test_a_key_goes_to_the_partition_that_the_client_chooses() -> None:
    chance = random.Random(7)
    keys = [chance.randbytes(size) for size in range(70) for _ in range(20)]
    for key in keys:
        assert partition_of(key, 8) == (murmur2(key) & 0x7FFFFFFF) % 8
    assert {partition_of(key, 3) for key in keys} == {0, 1, 2}


def test_a_group_is_the_key_of_all_its_records_and_each_has_its_tasks_id() -> None:
    redactor = Redactor(())
    alone = Record("t-1", Result(task_id="t-1").encode(redactor))
    member = Record("t-2", Result(task_id="t-2", group_id="g").encode(redactor))
    end = Record("g", GroupEnd("g", "complete", 1, ("t-2",)).encode())
    found = [message_of(0, it, b"cut") for it in (alone, member, end)]
    assert [each.key for each in found] == [b"t-1", b"g", b"g"]
    assert {each.value for each in found} == {b"cut"}
    _, records = read(encode(found, Numbers(1, 0, 0), Compression.named(None)))
    assert [task_id_of(it.key, it.headers) for it in records] == ["t-1", "t-2", "g"]

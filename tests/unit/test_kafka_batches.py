"""Batches of a fetch: each is decoded or becomes one fault, and none stalls the reader."""

from __future__ import annotations

import random
from typing import Any

import pytest
from kafka import TopicPartition
from kafka.record import MemoryRecords
from kafka.record.default_records import DefaultRecordBatchBuilder
from kafka.record.util import calc_crc32c

from agentpipe.sinks.kafka import batches
from agentpipe.sinks.kafka.batches import Undecodable

TP = TopicPartition("topic", 0)
# Byte offsets in a batch header of Kafka's format.
ATTRIBUTES, LAST_DELTA, COUNT = 21, 23, 57


def batch(base: int, *values: bytes, compression: int = 0) -> bytearray:
    """A batch in Kafka's format, starting at offset ``base``."""
    builder = DefaultRecordBatchBuilder(2, compression, False, -1, -1, -1, 2**20)
    for offset, value in enumerate(values):
        builder.append(offset, 1, b"key", value, [])
    made = bytearray(builder.build())
    made[0:8] = base.to_bytes(8, "big")
    return made


def summed(damaged: bytearray) -> bytearray:
    """The batch with a matching checksum."""
    damaged[17:21] = calc_crc32c(memoryview(damaged)[ATTRIBUTES:]).to_bytes(4, "big")
    return damaged


def read(*parts: bytearray, at: int = 0) -> list[tuple[int, Any]]:
    """The offsets and values of a fetch, read one by one."""
    part = batches._Batches(at, TP, MemoryRecords(b"".join(map(bytes, parts))))  # noqa: SLF001
    found = []
    while part.record_iterator is not None:
        records = part.take(1)
        found += [(each.offset, each.value) for each in records]
        assert not records or part.next_fetch_offset > records[-1].offset
    return found


def faults(found: list[tuple[int, Any]]) -> list[int]:
    return [offset for offset, value in found if isinstance(value, Undecodable)]


def test_sound_batches_are_decoded() -> None:
    found = read(batch(0, b"a", b"b"), batch(2, b"c", compression=1), at=1)
    assert found == [(1, b"b"), (2, b"c")]


@pytest.mark.parametrize("place", [ATTRIBUTES, LAST_DELTA, COUNT, 70])
def test_a_damaged_one_is_one_fault_and_the_next_is_read(place: int) -> None:
    damaged = batch(1, b"b", b"c")
    damaged[place] ^= 0x55
    found = read(batch(0, b"a"), damaged, batch(3, b"d"))
    assert (found[0], found[-1]) == ((0, b"a"), (3, b"d"))
    assert len(faults(found)) == len(found) - 2 == 1


@pytest.mark.parametrize("kind", [5, 6, 7])
def test_an_unknown_compression_is_a_fault(kind: int) -> None:
    damaged = batch(1, b"b")
    damaged[ATTRIBUTES + 1] = kind
    found = read(batch(0, b"a"), summed(damaged), batch(2, b"c"))
    assert (faults(found), found[-1]) == ([1], (2, b"c"))


def test_a_bomb_is_a_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batches, "MAX_BATCH_BYTES", 100_000)
    found = read(batch(0, bytes(200_000), compression=1), batch(1, bytes(90_000), compression=1))
    assert faults(found) == [0]
    assert found[-1] == (1, bytes(90_000))
    monkeypatch.setattr(batches, "MAX_BATCH_RECORDS", 2)
    assert faults(read(batch(0, *[b"x"] * 3), batch(3, b"y", b"z"))) == [2]


def test_a_gzip_that_is_none_is_a_fault() -> None:
    damaged = batch(0, b"x")
    damaged[ATTRIBUTES + 1] = 1
    assert faults(read(summed(damaged), batch(1, b"y"))) == [0]


def test_no_damage_stalls_a_reader() -> None:
    chance = random.Random(7)
    for _ in range(2_000):
        damaged = bytearray(b"".join([batch(0, b"a", b"b"), batch(2, b"c", compression=1)]))
        for _ in range(chance.randrange(1, 4)):
            damaged[chance.randrange(8, len(damaged))] = chance.randrange(256)
        assert len(read(damaged)) <= 4

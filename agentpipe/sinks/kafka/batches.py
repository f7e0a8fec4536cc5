"""Batches: decodes a fetch batch by batch; an undecodable batch becomes a single fault.

The client raises for a damaged batch, and then never gets past it. Other programs write to the
topic too, and disks fail: our reader continues after the batch.
"""

from __future__ import annotations

import io
import zlib
from importlib import import_module
from typing import TYPE_CHECKING, Any

from kafka import errors as kafka
from kafka.consumer.fetcher import ConsumerRecord, Fetcher
from kafka.record.default_records import DefaultRecordBatch

from agentpipe.core.caps import MAX_BATCH_BYTES, MAX_BATCH_RECORDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from kafka import KafkaConsumer, TopicPartition

DEFAULT_MAGIC = 2
_GZIP = 16 + zlib.MAX_WBITS
_PACKAGES = {
    DefaultRecordBatch.CODEC_SNAPPY: "python-snappy",
    DefaultRecordBatch.CODEC_LZ4: "lz4",
    DefaultRecordBatch.CODEC_ZSTD: "zstandard",
}


class Undecodable(str):
    """Why a batch cannot be decoded: the value of the one record that replaces it."""

    __slots__ = ()


class TooLargeError(Exception):
    """The decompressed batch exceeds the cap."""


def skip_undecodable(consumer: KafkaConsumer) -> None:
    """Make a consumer return an ``Undecodable`` value for each batch that it cannot decode."""
    consumer._fetcher.PartitionRecords = _Batches  # noqa: SLF001 - the only way to get past one


class _Batches(Fetcher.PartitionRecords):  # type: ignore[misc]  # the client has no types
    """Returns uncommitted records too, as our readers expect."""

    def _unpack_records(self, tp: TopicPartition, records: Any, *_: Any) -> Iterator[Any]:
        while True:
            try:
                batch = records.next_batch()
            except Exception as error:  # noqa: BLE001 - foreign bytes, client code
                yield self._fault(tp, self.next_fetch_offset, f"{type(error).__name__}: {error}")
                break  # The batch's end is unknown: the next fetch begins after its first record.
            if batch is None:
                break
            yield from self._records_of(tp, batch)
        self.drain()

    def _records_of(self, tp: TopicPartition, batch: Any) -> Iterator[Any]:
        try:
            found = [] if _is_control(batch) else _decoded(tp, batch)
        except Exception as error:  # noqa: BLE001 - foreign bytes, client code
            yield self._fault(tp, _last_offset(batch), _explained(batch, error))
            return
        for record in found:
            self.records_read += 1
            self.next_fetch_offset = record.offset + 1
            yield record
        if batch.magic == DEFAULT_MAGIC:  # The last records can be compacted away.
            self.leader_epoch = batch.leader_epoch
            self.next_fetch_offset = max(self.next_fetch_offset, batch.next_offset)

    def _fault(self, tp: TopicPartition, offset: int, why: str) -> Any:
        """Replace all records up to ``offset``; always advances by at least one record."""
        offset = max(offset, self.next_fetch_offset)
        self.next_fetch_offset = offset + 1
        return _record(tp, offset, None, Undecodable(f"its batch cannot be decoded ({why})"))


def _is_control(batch: Any) -> bool:
    """Whether the batch holds only transaction markers, no records."""
    if not batch.validate_crc():
        raise kafka.CorruptRecordError("its checksum is wrong")
    return bool(batch.magic == DEFAULT_MAGIC and batch.is_control_batch)


def _decoded(tp: TopicPartition, batch: Any) -> list[Any]:
    if batch.magic == DEFAULT_MAGIC:
        if batch.records_count > MAX_BATCH_RECORDS:
            raise TooLargeError(f"more than {MAX_BATCH_RECORDS:,} records: MAX_BATCH_RECORDS")
        _inflate(batch)
    return [_record(tp, each.offset, each.key, each.value, each.headers) for each in batch]


def _record(
    tp: TopicPartition, offset: int, key: bytes | None, value: Any, headers: Sequence[Any] = ()
) -> Any:
    unused = (None, -1, -1, -1)
    return ConsumerRecord(tp.topic, tp.partition, -1, offset, -1, 0, key, value, headers, *unused)


def _inflate(batch: DefaultRecordBatch) -> None:
    """Decompress up to the cap: data can expand a thousandfold or more."""
    packed = memoryview(batch._buffer)[batch._pos :]  # noqa: SLF001 - the client has no limit
    if batch.compression_type == batch.CODEC_GZIP:
        data = zlib.decompressobj(_GZIP).decompress(packed, MAX_BATCH_BYTES + 1)
    elif batch.compression_type == batch.CODEC_ZSTD:
        zstd = import_module("zstandard")
        with zstd.ZstdDecompressor().stream_reader(io.BytesIO(packed)) as stream:
            data = stream.read(MAX_BATCH_BYTES + 1)
    else:
        return
    if len(data) > MAX_BATCH_BYTES:
        raise TooLargeError(f"more than {MAX_BATCH_BYTES:,} bytes: MAX_BATCH_BYTES")
    batch._buffer, batch._pos, batch._decompressed = bytearray(data), 0, True  # noqa: SLF001 - the client has no limit


def _explained(batch: Any, error: Exception) -> str:
    package = _PACKAGES.get(batch.compression_type) if batch.magic == DEFAULT_MAGIC else None
    if package and isinstance(error, (kafka.UnsupportedCodecError, ImportError)):
        return f"compressed: install {package}"
    return f"{type(error).__name__}: {error}"


def _last_offset(batch: Any) -> int:
    """The last offset if the parts of a damaged batch agree; a wrong one would lose records."""
    whole = batch.magic == DEFAULT_MAGIC and batch.last_offset_delta == batch.records_count - 1 >= 0
    return int(batch.last_offset if whole else batch.base_offset)

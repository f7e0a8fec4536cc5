"""Record batches as a producer sends them, in Kafka's format 2; ``batches`` reads them.

The client's builder costs ten times as much per record, and creates two unused objects.
"""

from __future__ import annotations

import struct
import time
import zlib
from typing import TYPE_CHECKING, NamedTuple

from kafka import codec
from kafka.record.util import calc_crc32c

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

# Base offset, length, leader's epoch, format, checksum. The checksum covers the rest: attributes,
# last offset, first and last time, producer's id and epoch, first sequence number, record count.
_HEADER = struct.Struct(">qiibIhiqqqhii")
_CHECKSUM = struct.Struct(">I")
_LENGTH_END, _CHECKSUM_AT, _SUMMED_AT = 12, 17, 21
_FORMAT, _NO_TIME = 2, -1
# Half the time of level 9 or less, for up to 4 % more bytes of prose.
_GZIP_LEVEL, _GZIP = 4, 16 + zlib.MAX_WBITS
_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
# Size of a record without its key, value and headers.
OVERHEAD_BYTES = 24


class BatchRecord(NamedTuple):
    """One record to send.

    Attributes:
        place: Index in the publication.
        headers: Encoded; see ``encoded_headers``.
    """

    place: int
    key: bytes
    value: bytes
    headers: bytes


class Numbers(NamedTuple):
    """Identify a batch to the broker: the producer's id and epoch, and the first sequence number.

    Sequence numbers start at 0 in each partition.
    """

    producer_id: int
    epoch: int
    first: int


class Compression(NamedTuple):
    """How batches are compressed.

    Attributes:
        attributes: The codec's number in the batch's attributes.
    """

    attributes: int
    compress: Callable[[bytes], bytes]

    @classmethod
    def named(cls, name: str | None) -> Compression:
        """The compression named in a URL; its package must be installed."""
        if name is None:
            return cls(0, bytes)
        compress = _gzip if name == "gzip" else getattr(codec, f"{name}_encode")
        return cls(_CODECS.index(name), compress)


def encode(
    messages: Sequence[BatchRecord],
    numbers: Numbers,
    compression: Compression,
    *,
    has_time: bool = True,
) -> bytearray:
    """Encode messages as a batch, compressed if that makes it smaller."""
    body, now_ms = b"".join(_records(messages)), int(time.time() * 1000) if has_time else _NO_TIME
    packed = compression.compress(body) if compression.attributes else body
    attributes = compression.attributes if len(packed) < len(body) else 0
    batch = bytearray(_HEADER.size)
    batch += packed if attributes else body
    last = len(messages) - 1
    summed = (attributes, last, now_ms, now_ms, *numbers, len(messages))
    _HEADER.pack_into(batch, 0, 0, len(batch) - _LENGTH_END, 0, _FORMAT, 0, *summed)
    _CHECKSUM.pack_into(batch, _CHECKSUM_AT, calc_crc32c(memoryview(batch)[_SUMMED_AT:]))
    return batch


def encoded_headers(headers: Sequence[tuple[str, bytes]]) -> bytes:
    """A message's headers: their count, then each name and value with its length."""
    parts = [_varint(len(headers))]
    for name, value in headers:
        key = name.encode()
        parts += (_varint(len(key)), key, _varint(len(value)), value)
    return b"".join(parts)


def _records(messages: Sequence[BatchRecord]) -> list[bytes]:
    parts: list[bytes] = []
    for offset, (_, key, value, headers) in enumerate(messages):
        # Attributes, and the time since the first record: all have the same time.
        start = b"\0\0" + _varint(offset) + _varint(len(key)) + key + _varint(len(value))
        parts += (_varint(len(start) + len(value) + len(headers)), start, value, headers)
    return parts


def _varint(number: int) -> bytes:
    """Encode a length like a signed integer in protocol buffers."""
    rest = number << 1
    if rest < 0x80:  # noqa: PLR2004 - what fits into seven bits
        return rest.to_bytes()
    digits = bytearray()
    while rest >= 0x80:  # noqa: PLR2004 - what fits into seven bits
        digits.append(rest & 0x7F | 0x80)
        rest >>= 7
    digits.append(rest)
    return bytes(digits)


def _gzip(data: bytes) -> bytes:
    return zlib.compress(data, _GZIP_LEVEL, _GZIP)

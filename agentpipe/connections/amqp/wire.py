"""Fast encoding and decoding of the AMQP frames that each message needs.

pika creates objects for each frame and its parts, which costs more than everything else a worker
does with the message. Rare frames, and value types that our headers do not use, are left to pika.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from pika import data, spec  # type: ignore[attr-defined]  # pika does not declare these exports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.connections.amqp.message import OutgoingMessage

METHOD, HEADER, BODY = spec.FRAME_METHOD, spec.FRAME_HEADER, spec.FRAME_BODY
# The kind, channel and size of a frame.
HEAD = struct.Struct(">BHI")
END = spec.FRAME_END
# Bytes of a frame around its content.
BESIDE = spec.FRAME_HEADER_SIZE + spec.FRAME_END_SIZE

_END = bytes([END])
_SHORT, _LONG, _LONGLONG = struct.Struct(">H"), struct.Struct(">I"), struct.Struct(">Q")
_NUMBER, _LARGE_NUMBER = struct.Struct(">i"), struct.Struct(">q")
_CONTENT = struct.Struct(">HHQH")
_ACK = struct.Struct(">BHIIQBB")
_ACK_SIZE = 13
# Property flags; the values follow in this order.
_TYPE, _ENCODING, _HEADERS = 1 << 15, 1 << 14, 1 << 13
_MODE, _PRIORITY, _EXPIRATION, _ID = 1 << 12, 1 << 11, 1 << 8, 1 << 7
_MORE = 1
_TEXT = ord("S")


def publication(
    channel: int, message: OutgoingMessage, message_id: str, largest: int
) -> Iterator[bytes]:
    """The frames that publish a message, with at most ``largest`` body bytes each."""
    yield _publish(channel, message.exchange, message.key, message.mandatory)
    properties = _properties(message, message_id)
    body = message.body
    content = _CONTENT.pack(spec.Basic.INDEX, 0, len(body), properties[0]) + properties[1]
    yield _frame(HEADER, channel, content)
    for first in range(0, len(body), largest):
        yield _frame(BODY, channel, body[first : first + largest])


def check(message: OutgoingMessage) -> None:
    """Raise the error that ``publication`` would raise for this message."""
    _publish(0, message.exchange, message.key, message.mandatory)
    _properties(message, "")


def acknowledgement(channel: int, tag: int, *, all_before: bool) -> bytes:
    """The frame that acknowledges a delivery."""
    index = spec.Basic.Ack.INDEX
    return _ACK.pack(METHOD, channel, _ACK_SIZE, index, tag, all_before, END)


@lru_cache(maxsize=64)
def get(channel: int, queue: str) -> bytes:
    """The frame that requests one message."""
    return _frame(METHOD, channel, _method(spec.Basic.Get(queue=queue)))


@lru_cache(maxsize=1_024)
def _publish(channel: int, exchange: str, key: str, mandatory: bool) -> bytes:  # noqa: FBT001 - a cache key
    publish = spec.Basic.Publish(exchange=exchange, routing_key=key, mandatory=mandatory)
    return _frame(METHOD, channel, _method(publish))


def _method(method: Any) -> bytes:
    return b"".join([_LONG.pack(method.INDEX), *method.encode()])


def _frame(kind: int, channel: int, held: bytes) -> bytes:
    return HEAD.pack(kind, channel, len(held)) + held + _END


def _properties(message: OutgoingMessage, message_id: str) -> tuple[int, bytes]:
    """The property flags and the encoded values."""
    flags = _HEADERS | _MODE | _ID
    values = [table(message.headers), b"\2" if message.lasting else b"\1"]
    if message.priority is not None:
        flags |= _PRIORITY
        values.append(bytes([message.priority]))
    if message.expires_ms is not None:
        flags |= _EXPIRATION
        values.append(_short(str(message.expires_ms).encode()))
    values.append(_short(message_id.encode()))
    return flags, b"".join(values)


def table(values: Mapping[str, Any]) -> bytes:
    """Encode headers."""
    pieces: list[bytes] = []
    for name, value in values.items():
        kind = type(value)
        if kind is str:
            text = value.encode()
            pieces += (_name(name), b"S", _LONG.pack(len(text)), text)
        elif kind is int:
            pieces += (_name(name), b"l", _LARGE_NUMBER.pack(value))
        else:
            pieces.append(_name(name))
            data.encode_value(pieces, value)
    held = b"".join(pieces)
    return _LONG.pack(len(held)) + held


@lru_cache(maxsize=256)
def _name(name: str) -> bytes:
    return _short(name.encode())


def _short(text: bytes) -> bytes:
    return bytes([len(text)]) + text


def headers_in(frames: bytes, at: int) -> dict[str, Any]:
    """Decode the headers of a message whose properties begin at ``at``."""
    (flags,) = _SHORT.unpack_from(frames, at)
    if flags & _MORE or not flags & _HEADERS:
        return {}
    at += _SHORT.size
    for other in (_TYPE, _ENCODING):
        if flags & other:
            at += 1 + frames[at]
    return read_table(frames, at)


def read_table(frames: bytes, at: int) -> dict[str, Any]:
    """Decode the header table at ``at``."""
    begin = at
    (size,) = _LONG.unpack_from(frames, at)
    at += _LONG.size
    end = at + size
    found: dict[str, Any] = {}
    while at < end:
        after = at + 1 + frames[at]
        name, kind, at = frames[at + 1 : after], frames[after], after + 1
        if kind == _TEXT:
            (length,) = _LONG.unpack_from(frames, at)
            at += _LONG.size + length
            text = frames[at - length : at]
            try:
                found[_name_of(name)] = text.decode()
            except UnicodeDecodeError:
                found[_name_of(name)] = text
        elif kind in _NUMBERS:
            number = _NUMBERS[kind]
            (found[_name_of(name)],) = number.unpack_from(frames, at)
            at += number.size
        else:
            table: dict[str, Any] = data.decode_table(frames, begin)[0]
            return table
    return found


_NUMBERS = {ord("I"): _NUMBER, ord("l"): _LARGE_NUMBER}


@lru_cache(maxsize=256)
def _name_of(name: bytes) -> str:
    return name.decode(errors="replace")


def number_at(frames: bytes, at: int) -> int:
    """A 64-bit number: a delivery tag or a body size."""
    number: int = _LONGLONG.unpack_from(frames, at)[0]
    return number


def method_at(frames: bytes, at: int) -> int:
    """The index that identifies a method."""
    index: int = _LONG.unpack_from(frames, at)[0]
    return index

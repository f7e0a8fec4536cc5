"""Packing: encodes commands in the Redis protocol."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

Argument = str | bytes | float

_SIZES = tuple(b"$%d" % size for size in range(128))


@dataclass(frozen=True, slots=True)
class Packed:
    """Arguments encoded in the Redis protocol.

    Attributes:
        number: Number of arguments.
        data: The encoded bytes.
    """

    number: int
    data: bytes


NOTHING = Packed(0, b"")


def packed(arguments: Iterable[Argument]) -> Packed:
    """Encode arguments to be appended to a command."""
    parts = _parts(arguments)
    return Packed(len(parts) // 2, b"\r\n".join((*parts, b"")))


def command_of(arguments: tuple[Argument, ...], more: Packed = NOTHING) -> list[bytes]:
    """Encode a command as separate pieces, so that large packed data is not copied again."""
    head = b"*%d" % (len(arguments) + more.number)
    first = b"\r\n".join((head, *_parts(arguments), b""))
    return [first, more.data] if more.number else [first]


def _parts(arguments: Iterable[Argument]) -> list[bytes]:
    parts: list[bytes] = []
    for value in arguments:
        data = value if isinstance(value, bytes) else str(value).encode()
        size = len(data)
        parts += (_SIZES[size] if size < len(_SIZES) else b"$%d" % size, data)
    return parts

"""Packing: encodes commands in the Redis protocol."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

Argument = str | bytes | float

_SIZES = tuple(b"$%d" % size for size in range(128))
_MULTI, _EXEC = b"*1\r\n$5\r\nMULTI\r\n", b"*1\r\n$4\r\nEXEC\r\n"


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


@dataclass(frozen=True, slots=True)
class Commands:
    """Encoded commands that are sent at once.

    Attributes:
        pieces: Their bytes.
        replies: How many replies they get.
    """

    pieces: list[bytes]
    replies: int = 1


def packed(arguments: Iterable[Argument]) -> Packed:
    """Encode arguments to be appended to a command."""
    parts = _parts(arguments)
    return Packed(len(parts) // 2, b"\r\n".join((*parts, b"")))


def command_of(arguments: tuple[Argument, ...], more: Packed = NOTHING) -> list[bytes]:
    """Encode a command as separate pieces, so that large packed data is not copied again."""
    head = b"*%d" % (len(arguments) + more.number)
    first = b"\r\n".join((head, *_parts(arguments), b""))
    return [first, more.data] if more.number else [first]


def transaction(commands: Sequence[list[bytes]]) -> Commands:
    """Make encoded commands a transaction."""
    pieces = b"".join((_MULTI, *chain.from_iterable(commands), _EXEC))
    return Commands([pieces], len(commands) + 2)


def _parts(arguments: Iterable[Argument]) -> list[bytes]:
    parts: list[bytes] = []
    for value in arguments:
        data = value if isinstance(value, bytes) else str(value).encode()
        size = len(data)
        parts += (_SIZES[size] if size < len(_SIZES) else b"$%d" % size, data)
    return parts

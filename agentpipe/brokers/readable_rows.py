"""Reads store rows that other programs can have written: an unreadable row does not hide others."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Row = TypeVar("Row")
Record = TypeVar("Record")

log = logging.getLogger(__name__)


def readable(noun: str, rows: Iterable[Row], read: Callable[[Row], Record]) -> Iterator[Record]:
    """Yield ``read(row)`` for each row; skip unreadable rows and log their number as ``noun``."""
    skipped = 0
    for row in rows:
        try:
            yield read(row)
        except (TypeError, ValueError, LookupError, AttributeError):
            skipped += 1
    if skipped:
        log.warning("%s that cannot be read: %d in the broker's store, left out", noun, skipped)


def text_in(value: object) -> str:
    """Return ``value`` if it is a string.

    Raises:
        TypeError: It is not a string.
    """
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def bytes_in(value: object) -> bytes:
    """Return bytes, or a string encoded as UTF-8.

    Raises:
        TypeError: It is neither bytes nor a string.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value


def number_in(value: object) -> float:
    """Return ``value`` if it is a number of at least 0, which is safe to sum.

    Raises:
        TypeError: It is not a number.
        ValueError: It is negative or NaN.
    """
    if not isinstance(value, (int, float)):
        raise TypeError("not a number")
    if not value >= 0:
        raise ValueError("below 0")
    return value

"""Rows that others may have written into a store: one that makes no sense hides no other."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

Row = TypeVar("Row")
Record = TypeVar("Record")

log = logging.getLogger(__name__)


def readable(noun: str, rows: Iterable[Row], read: Callable[[Row], Record]) -> Iterator[Record]:
    """What ``read`` makes of each; the log names the kind of those of which it makes nothing."""
    skipped = 0
    for row in rows:
        try:
            yield read(row)
        except (TypeError, ValueError, LookupError, AttributeError):
            skipped += 1
    if skipped:
        log.warning("%s that cannot be read: %d in the broker's store, left out", noun, skipped)


def text_in(value: object) -> str:
    """A string, and nothing that stands for one.

    Raises:
        TypeError: It is none.
    """
    if not isinstance(value, str):
        raise TypeError("not a string")
    return value


def bytes_in(value: object) -> bytes:
    """Bytes, or the UTF-8 of a string.

    Raises:
        TypeError: It is neither.
    """
    if isinstance(value, str):
        return value.encode("utf-8", "surrogatepass")
    if not isinstance(value, bytes):
        raise TypeError("not bytes")
    return value


def number_in(value: object) -> float:
    """A number from 0, as sums of others need it.

    Raises:
        TypeError: It is none.
        ValueError: It is below 0, or NaN.
    """
    if not isinstance(value, (int, float)):
        raise TypeError("not a number")
    if not value >= 0:
        raise ValueError("below 0")
    return value

"""Things that are half open do not stay so."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Closes(Protocol):
    """What has to be closed."""

    def close(self) -> object:
        """Give up what it holds."""


@contextmanager
def closed_on_error(*things: Closes) -> Iterator[None]:
    """Close these, the last first, where the block fails; else they are the caller's."""
    with ExitStack() as closing:
        for each in things:
            closing.callback(each.close)
        yield
        closing.pop_all()

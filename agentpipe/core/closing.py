"""Close partly opened resources when an error occurs."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterator


class Closes(Protocol):
    """A resource that must be closed."""

    def close(self) -> object:
        """Release the resource."""


@contextmanager
def closed_on_error(*things: Closes) -> Iterator[None]:
    """Close these in reverse order if the block fails; else the caller owns them."""
    with ExitStack() as closing:
        for each in things:
            closing.callback(each.close)
        yield
        closing.pop_all()

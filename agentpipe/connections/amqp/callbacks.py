"""What pika calls back."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def resolver(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    """A callback that ends the future, if it has not ended."""

    def resolve(value: Any) -> None:
        if not future.done():
            future.set_result(value)

    return resolve


def unused(*_: Any) -> None:
    """What pika would call if ``Arrivals`` did not come first."""

"""Callbacks for pika."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import Callable


def resolver(future: asyncio.Future[Any]) -> Callable[[Any], None]:
    """A callback that resolves the future unless it is already done."""

    def resolve(value: Any) -> None:
        if not future.done():
            future.set_result(value)

    return resolve


def unused(*_: Any) -> None:
    """Placeholder callback: ``Arrivals`` handles these frames before pika does."""

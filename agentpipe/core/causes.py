"""Causes: an error and what led to it, and what the errors of client libraries have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """The error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # Causes may form a cycle.
        yield error
        seen.add(id(error))
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """The HTTP status as httpx and requests, openai, aiohttp, or urllib keep it."""
    response = attribute(error, "response")
    for holder, name in (
        (response, "status_code"),
        (error, "status_code"),
        (error, "status"),
        (error, "code"),
    ):
        status = attribute(holder, name)
        if isinstance(status, int):
            return status
    return None


def attribute(holder: Any, name: str) -> Any:
    """The attribute of an object of another's class; None where it has none."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - properties of others' classes may raise anything
        return None

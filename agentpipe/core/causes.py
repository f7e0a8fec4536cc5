"""Exception chains, and attributes that client libraries' errors have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes."""
    seen: set[int] = set()
    while error is not None and id(error) not in seen:  # Causes can form a cycle.
        yield error
        seen.add(id(error))
        error = error.__cause__


def status_of(error: BaseException) -> int | None:
    """Return the HTTP status as stored by httpx, requests, openai, aiohttp, urllib or botocore."""
    response = attribute(error, "response")
    if isinstance(response, dict):
        metadata = response.get("ResponseMetadata")
        status = metadata.get("HTTPStatusCode") if isinstance(metadata, dict) else None
        return status if isinstance(status, int) else None
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
    """Return an attribute of a foreign object; None if it has none."""
    try:
        return getattr(holder, name, None)
    except Exception:  # noqa: BLE001 - properties of foreign classes can raise anything
        return None

"""Reads what model servers send: strict about the answer, tolerant about everything else.

Servers differ in fields that no answer needs, and change them without notice. The answer itself
must be well formed; otherwise ``UnreadableResponse`` is raised.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from agentpipe.core import caps
from agentpipe.core.caps import CapExceeded
from agentpipe.core.numbers import is_number
from agentpipe.core.outside import CostlyJson, json_text, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable

# Mistral requires ids of exactly this many letters and digits; others accept them, too.
_ID_CHARS = 9


class UnreadableResponse(Exception):  # noqa: N818 - reads as what happened
    """A response without a readable answer; the message shows what the server sent."""


class IncompleteResponse(UnreadableResponse):
    """A stream that ended before its answer did."""


def parsed(data: bytes) -> Any:
    """Parse the JSON in ``data``; invalid bytes and lone surrogates are replaced.

    Raises:
        UnreadableResponse: It is not JSON.
    """
    try:
        return read_json(data)
    except CostlyJson as error:
        raise UnreadableResponse(str(error)) from error
    except ValueError as error:
        sent = data.decode(errors="replace").strip()
        raise UnreadableResponse(f"not JSON: {sent}" if sent else "an empty body") from error


def an_object(value: Any, name: str) -> dict[str, Any]:
    """Return ``value`` if it is an object.

    Raises:
        UnreadableResponse: It is not an object.
    """
    if not isinstance(value, dict):
        raise UnreadableResponse(f"{name}: expected an object, got {_short(value)}")
    return value


def a_list(value: Any, name: str) -> list[Any]:
    """Return ``value`` if it is a list; null counts as an empty list.

    Raises:
        UnreadableResponse: It is neither.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise UnreadableResponse(f"{name}: expected a list, got {_short(value)}")
    return value


def a_text(value: Any, name: str) -> str:
    """Return ``value`` if it is a string; null counts as an empty string.

    Raises:
        UnreadableResponse: It is neither.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableResponse(f"{name}: expected a string, got {_short(value)}")
    return value


def text_or_none(value: Any) -> str | None:
    """``value`` if it is a non-empty string, else None."""
    return value if isinstance(value, str) and value else None


def count(value: Any) -> int:
    """``value`` if it is a valid number of tokens, else 0."""
    return int(value) if is_number(value) and 0 <= value < 2**53 else 0


def call_ids(values: Iterable[Any]) -> list[str]:
    """The ids of a response's calls; missing or repeated ids are replaced by new ones."""
    ids: dict[str, None] = {}
    for value in values:
        given = text_or_none(value)
        ids[given if given and given not in ids else uuid.uuid4().hex[:_ID_CHARS]] = None
    return list(ids)


def refuse_more_calls(number: int) -> None:
    """Refuse a response with more calls than any model plausibly requests at once.

    Raises:
        CapExceeded: There are more than ``MAX_TOOL_CALLS``.
    """
    if number > caps.MAX_TOOL_CALLS:
        raise CapExceeded("calls of tools in a response", caps.MAX_TOOL_CALLS, "MAX_TOOL_CALLS")


def arguments_text(value: Any) -> str:
    """A call's arguments as a string; some servers send an object."""
    return "" if value is None else json_text(value)


def arguments_of(text: str) -> dict[str, Any]:
    """Parse the arguments that a model wrote for a call; empty or null is an empty object.

    Raises:
        ValueError: They are not a JSON object, or longer than ``MAX_ARGUMENTS_CHARS``.
    """
    if len(text) > caps.MAX_ARGUMENTS_CHARS:
        most = f"more than {caps.MAX_ARGUMENTS_CHARS:,} characters (MAX_ARGUMENTS_CHARS)"
        raise ValueError(f"{most}: send them in parts")
    given = read_json((text.strip() or "{}").encode(errors="replace"), exact=True)
    if given is not None and not isinstance(given, dict):
        raise ValueError("not an object")
    return given or {}


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 100 else f"{text[:100]}..."  # noqa: PLR2004 - the number shown

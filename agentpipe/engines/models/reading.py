"""Reads what model servers send: strict about the answer, tolerant about everything else.

Servers differ in the fields that no answer needs, and change them without notice. What the answer
consists of must be well formed, or ``UnreadableResponse`` is raised.
"""

from __future__ import annotations

import json
import uuid
from typing import TYPE_CHECKING, Any

from agentpipe.core import caps
from agentpipe.core.caps import CapExceeded
from agentpipe.core.outside import CostlyJson, encoded, read_json

if TYPE_CHECKING:
    from collections.abc import Iterable

# Mistral's ids have exactly as many letters and digits; the others take them, too.
_ID_CHARS = 9


class UnreadableResponse(Exception):  # noqa: N818 - reads as what happened
    """A response without a readable answer; the message says what the server sent."""


class IncompleteResponse(UnreadableResponse):
    """A stream that ended before its answer did."""


def parsed(data: bytes) -> Any:
    """The JSON in ``data``; invalid bytes and lone surrogates in it are replaced.

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
    """``value`` if it is an object.

    Raises:
        UnreadableResponse: It is not.
    """
    if not isinstance(value, dict):
        raise UnreadableResponse(f"{name}: expected an object, got {_short(value)}")
    return value


def a_list(value: Any, name: str) -> list[Any]:
    """``value`` if it is a list; null is an empty one.

    Raises:
        UnreadableResponse: It is neither.
    """
    if value is None:
        return []
    if not isinstance(value, list):
        raise UnreadableResponse(f"{name}: expected a list, got {_short(value)}")
    return value


def a_text(value: Any, name: str) -> str:
    """``value`` if it is a string; null is an empty one.

    Raises:
        UnreadableResponse: It is neither.
    """
    if value is None:
        return ""
    if not isinstance(value, str):
        raise UnreadableResponse(f"{name}: expected a string, got {_short(value)}")
    return value


def text_or_none(value: Any) -> str | None:
    """``value`` if it is a string that says something."""
    return value if isinstance(value, str) and value else None


def count(value: Any) -> int:
    """``value`` if it is a number of tokens, else 0."""
    is_number = isinstance(value, (int, float)) and not isinstance(value, bool)
    return int(value) if is_number and 0 <= value < 2**53 else 0


def call_ids(values: Iterable[Any]) -> list[str]:
    """The ids of a response's calls, with a new one where there is none or one that is taken."""
    ids: dict[str, None] = {}
    for value in values:
        given = text_or_none(value)
        ids[given if given and given not in ids else uuid.uuid4().hex[:_ID_CHARS]] = None
    return list(ids)


def refuse_more_calls(number: int) -> None:
    """Refuse a response with so many calls if no model asks for that many at once.

    Raises:
        CapExceeded: There are more than ``MAX_TOOL_CALLS``.
    """
    if number > caps.MAX_TOOL_CALLS:
        raise CapExceeded("calls of tools in a response", caps.MAX_TOOL_CALLS, "MAX_TOOL_CALLS")


def arguments_text(value: Any) -> str:
    """A call's arguments as text; some servers send them as an object."""
    if value is None:
        return ""
    return value if isinstance(value, str) else encoded(value).decode()


def arguments_of(text: str) -> dict[str, Any]:
    """The arguments that a model wrote for a call; none at all, or null, are an empty object.

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
    return text if len(text) <= 100 else f"{text[:100]}..."  # noqa: PLR2004 - as many as are shown

"""Find the JSON in a model's text."""

from __future__ import annotations

import json
import re
from contextlib import suppress
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.outside import json_text

if TYPE_CHECKING:
    from collections.abc import Iterator

_FENCED = re.compile(r"```[^\n`]*\n(.*?)```", re.DOTALL)
# The beginning of an object or list.
_OPENING = re.compile(r'\{(?=\s*["}])|\[(?=\s*[]\["{\dtfn-])')
# Python counts lines for each error: text full of brackets would block the worker.
_MAX_BROKEN = 10_000
_DECODER = json.JSONDecoder()


def json_in(text: str, wanted: Any) -> str:
    """The JSON in ``text``, exactly as written there, or the text unchanged if it has none.

    The whole text is tried first, then fenced blocks, then values within other text.

    ``wanted`` is an example: among several values, the first of its kind wins.
    """
    if _is_json(text):
        return text
    blocks = [block[1].strip() for block in _FENCED.finditer(text) if _is_json(block[1])]
    found = blocks or [value for value in _values(text) if _is_json(value)]
    alike = (value for value in found if value.startswith("{") == isinstance(wanted, dict))
    return next(alike, found[0] if found else text)


def unwrapped(text: str) -> str:
    """The ``answer`` beside a ``thought``, as in MCP-Universe, or the text unchanged."""
    with suppress(orjson.JSONDecodeError):
        wrapped = orjson.loads(json_in(text, {}))
        if isinstance(wrapped, dict) and {"thought", "answer"} <= wrapped.keys():
            return json_text(wrapped["answer"])
    return text


def _is_json(text: str) -> bool:
    try:
        orjson.loads(text)
    except orjson.JSONDecodeError:
        return False
    return True


def _values(text: str) -> Iterator[str]:
    """Each outermost object and list in ``text``."""
    at = broken = 0
    with suppress(RecursionError):
        while broken < _MAX_BROKEN and (opening := _OPENING.search(text, at)):
            start = opening.start()
            try:
                _, at = _DECODER.raw_decode(text, start)
            except ValueError as error:  # Also raised for a number of 5,000 digits.
                # Values inside a broken value do not count.
                at = max(getattr(error, "pos", 0), start + 1)
                broken += 1
                continue
            yield text[start:at]

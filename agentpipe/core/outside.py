"""The single entry point for text from outside: repair invalid Unicode, and limit JSON.

Models, servers and agents can send invalid Unicode. A lone surrogate or a broken byte becomes
U+FFFD. Then everything inside can be written as UTF-8, and one bad character does not cost a paid
run.
"""

from __future__ import annotations

import json
import math
import re
from contextlib import suppress
from itertools import islice
from typing import Any

import orjson

from agentpipe.core import caps

_TOO_DEEP = f'"... (nested deeper than {caps.MAX_JSON_DEPTH} levels)"'.encode()
# A string, or a bracket that opens or closes a level.
_TOKEN = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?|[\[\]{}]', re.DOTALL)
# Maximum nesting depth that orjson writes.
ORJSON_DEPTH = 254
_BEFORE_VALUES = (b"[", b"{", b",")
_STRING_OR_MARK = re.compile(rb'"(?:[^"\\]++|\\.?)*+"?|[\[{,]', re.DOTALL)


def valid_text(text: str) -> str:
    """Return ``text`` with lone surrogates replaced; the halves of a pair are joined."""
    if text.isascii():
        return text
    return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def valid_json(value: Any) -> Any:
    """Return ``value`` with lone surrogates replaced in its strings and keys.

    Returns the value itself if it has none, or if it is nested too deeply to be JSON.
    """
    try:
        orjson.dumps(value)
    except (TypeError, ValueError):
        with suppress(RecursionError):
            return _repaired(value)
    return value


def _repaired(value: Any) -> Any:
    if isinstance(value, str):
        return valid_text(value)
    if isinstance(value, dict):
        return {_repaired(name): _repaired(item) for name, item in dict.items(value)}
    if isinstance(value, list):
        return [_repaired(item) for item in list.__iter__(value)]
    if isinstance(value, tuple):
        return [_repaired(item) for item in tuple.__iter__(value)]
    return value


def encoded(value: Any) -> bytes:
    """Encode to JSON, including values that orjson refuses, such as integers beyond 64 bits.

    Raises:
        TypeError: The value is not JSON.
    """
    try:
        return orjson.dumps(value)
    except TypeError:
        return json.dumps(valid_json(value), ensure_ascii=False).encode(errors="replace")


def json_text(value: Any) -> str:
    """Return a string as it is, and any other value as JSON.

    Raises:
        TypeError: The value is not JSON.
    """
    return value if isinstance(value, str) else encoded(value).decode()


def read_json(data: bytes, *, exact: bool = False) -> Any:
    """Parse JSON, with broken bytes and lone surrogates replaced.

    Unless ``exact``, NaN and numbers out of range are accepted, since some servers send them.

    Raises:
        CostlyJson: It is nested deeper than ``MAX_JSON_DEPTH``, or has more than
            ``MAX_JSON_VALUES`` values.
        ValueError: It is not JSON.
    """
    refuse_many_values(data)
    return _shallow_enough(data, exact=exact)


def _shallow_enough(data: bytes, *, exact: bool = False) -> Any:
    value = _parsed(data, exact=exact)
    if is_deep(data, value, caps.MAX_JSON_DEPTH):
        raise CostlyJson("levels", caps.MAX_JSON_DEPTH, "MAX_JSON_DEPTH")
    return value


def _parsed(data: bytes, *, exact: bool) -> Any:
    try:
        return orjson.loads(data)
    except orjson.JSONDecodeError:
        pass
    try:
        hooks = _EXACT if exact else {"parse_int": _number}
        return valid_json(json.loads(data.decode(errors="replace"), **hooks))
    except RecursionError:
        raise CostlyJson("levels", caps.MAX_JSON_DEPTH, "MAX_JSON_DEPTH") from None


class CostlyJson(ValueError):  # noqa: N818 - reads as what it is
    """JSON that would take far more memory than its size, or more stack than available."""

    def __init__(self, what: str, limit: int, cap: str) -> None:
        super().__init__(f"JSON of more than {limit:,} {what} ({cap})")


def refuse_many_values(data: bytes) -> None:
    """Count values before parsing: ``[[],[],...`` takes twenty times its size in memory.

    Raises:
        CostlyJson: It has more than ``MAX_JSON_VALUES`` values.
    """
    most = caps.MAX_JSON_VALUES
    if len(data) <= most or sum(map(data.count, _BEFORE_VALUES)) <= most:
        return
    outside_strings = _STRING_OR_MARK.finditer(data)
    if next(islice(outside_strings, most, None), None) is not None:
        raise CostlyJson("values", most, "MAX_JSON_VALUES")


def is_deep(data: bytes, value: Any, max_depth: int) -> bool:
    """Whether ``value``, which ``data`` encodes, is nested deeper than ``max_depth``.

    Encoders have their own depth limits, and so does recursive Python code.
    """
    if data.count(b"[") + data.count(b"{") <= max_depth:
        return False
    for _ in range(ORJSON_DEPTH - max_depth):
        value = [value]
    try:
        orjson.dumps(value)
    except TypeError:
        return True
    return False


def read_shallow_json(data: bytes) -> Any:
    """Parse JSON as ``read_json``, but replace parts that are nested too deeply by a note.

    Raises:
        ValueError: It is not JSON, or has more than ``MAX_JSON_VALUES`` values.
    """
    refuse_many_values(data)
    try:
        return _shallow_enough(data)
    except ValueError:
        bounded = _shallow(data)
        if len(bounded) == len(data):
            raise
    return _shallow_enough(bounded)


def _shallow(data: bytes) -> bytes:
    """Replace everything nested deeper than ``MAX_JSON_DEPTH`` levels by a note."""
    parts, depth, kept = [], 0, 0
    for token in _TOKEN.finditer(data):
        mark = token[0]
        if mark in (b"[", b"{"):
            depth += 1
            if depth == caps.MAX_JSON_DEPTH + 1:
                parts += [data[kept : token.start()], _TOO_DEEP]
        elif mark in (b"]", b"}"):
            if depth == caps.MAX_JSON_DEPTH + 1:
                kept = token.end()
            depth -= 1
    return b"".join([*parts, data[kept:]])


def _number(digits: str) -> int | float:
    """Parse as orjson does: beyond 64 bits as a float."""
    try:
        number = int(digits)
    except ValueError:  # More digits than Python parses.
        return float(digits)
    return number if -(2**63) <= number < 2**64 else float(digits)


def _finite(digits: str) -> float:
    number = float(digits)
    if not math.isfinite(number):
        raise ValueError(f"{digits[:40]} is not a number that JSON can hold")
    return number


def _finite_number(digits: str) -> int | float:
    number = _number(digits)
    return number if isinstance(number, int) else _finite(digits)


_EXACT: dict[str, Any] = {
    "parse_int": _finite_number,
    "parse_float": _finite,
    "parse_constant": _finite,
}

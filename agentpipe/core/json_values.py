"""JSON values: check whether a value is valid JSON, and report where it is not."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.outside import valid_json
from agentpipe.errors import AnswerError

if TYPE_CHECKING:
    from collections.abc import Iterable

_STRING = frozenset({str})
_BEYOND_64_BITS = "an integer beyond 64 bits is not JSON; use a string"
MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ANSWER_DEPTH = 200


@dataclass(frozen=True, slots=True)
class JsonRules:
    """What a value can contain.

    Stricter than orjson, which silently turns NaN into null and dates into strings.

    Attributes:
        max_depth: Maximum levels of nesting; a cycle exceeds any.
        other_types: Whether types that JSON lacks are left to the encoder.
        nul: Whether strings can contain NUL, which databases refuse.
    """

    max_depth: int
    other_types: bool
    nul: bool

    def flaw(self, value: Any, place: str = "", depth: int = 0) -> str:
        """Return the first violation with its place; empty if the value is valid."""
        # Most values are valid, and senders pay for this check: build places only for flaws.
        return "" if self._are_sound((value,), depth) else self._flaw(value, place, depth)

    def _are_sound(self, values: Iterable[Any], depth: int) -> bool:
        """Whether these values are valid, judging by plain JSON types only."""
        for value in values:
            kind = type(value)
            if kind is str:
                ok = self.nul or "\0" not in value
            elif kind is dict:
                inner = (*value, *value.values())
                ok = _STRING.issuperset(map(type, value)) and self._is_sound_in(inner, depth)
            elif kind is list:
                ok = self._is_sound_in(value, depth)
            elif kind is int:
                ok = -(2**63) <= value < 2**64
            else:
                ok = value is None or kind is bool or (kind is float and math.isfinite(value))
            if not ok:
                return False
        return True

    def _is_sound_in(self, values: Iterable[Any], depth: int) -> bool:
        return depth <= self.max_depth and self._are_sound(values, depth + 1)

    def _flaw(self, value: Any, place: str, depth: int) -> str:
        if isinstance(value, str):
            ok = self.nul or "\0" not in value
            return "" if ok else f"{place}: contains a NUL character; remove it"
        if isinstance(value, float):
            return "" if math.isfinite(value) else f"{place}: {value} is not JSON; use null"
        if isinstance(value, dict):
            return self._flaw_of_object(value, place, depth)
        if isinstance(value, (list, tuple)):
            return self._flaw_of_list(value, place, depth)
        return self._flaw_of_other(value, place)

    def _flaw_of_other(self, value: Any, place: str) -> str:
        if isinstance(value, int):
            return "" if -(2**63) <= value < 2**64 else f"{place}: {_BEYOND_64_BITS}"
        if value is None or self.other_types:
            return ""
        return f"{place}: is of type {type(value).__name__}; use a string or JSON"

    def _flaw_of_object(self, value: dict[Any, Any], place: str, depth: int) -> str:
        if depth > self.max_depth:
            return self._too_deep(place)
        # A subclass could override any method, and yield without end.
        for name, item in dict.items(value):
            if not isinstance(name, str):
                return f"{place}: keys must be strings, got {type(name).__name__}"
            if not self.nul and "\0" in name:
                return f"{place}: keys must be strings without NUL"
            if flaw := self._flaw(item, f"{place}.{name}" if place else name, depth + 1):
                return flaw
        return ""

    def _flaw_of_list(self, value: list[Any] | tuple[Any, ...], place: str, depth: int) -> str:
        if depth > self.max_depth:
            return self._too_deep(place)
        items = list.__iter__(value) if isinstance(value, list) else tuple.__iter__(value)
        for index, item in enumerate(items):
            if flaw := self._flaw(item, f"{place}[{index}]", depth + 1):
                return flaw
        return ""

    def _too_deep(self, place: str) -> str:
        return f"{place[:80]}: nested deeper than {self.max_depth} levels, or in a cycle"


ANSWERS = JsonRules(MAX_ANSWER_DEPTH, other_types=False, nul=True)


def checked_answer(answer: Any) -> tuple[Any, str]:
    """Return the answer, and the string that evaluators see: the answer itself, or its JSON.

    Invalid Unicode is replaced in both, so that a lone surrogate does not cost a paid run.

    Raises:
        AnswerError: The answer is not a string or JSON (the message says where and why), or is too
            large.
    """
    if flaw := ANSWERS.flaw(answer, "the answer"):
        raise AnswerError(flaw)
    if isinstance(answer, str):
        answer = str.__str__(answer)  # A subclass could override any method.
    try:
        answer, data = _encoded(answer)
    except (TypeError, ValueError, RecursionError) as error:
        raise AnswerError(f"the answer is not a string or JSON: {error}") from error
    if len(data) > MAX_ANSWER_BYTES:
        raise AnswerError(
            f"the answer has {len(data):,} bytes, {MAX_ANSWER_BYTES:,} are allowed: "
            "store it and return its address"
        )
    return answer, answer if isinstance(answer, str) else data.decode()


def _encoded(answer: Any) -> tuple[Any, bytes]:
    try:
        return answer, orjson.dumps(answer)
    except TypeError:
        answer = valid_json(answer)
        return answer, orjson.dumps(answer)

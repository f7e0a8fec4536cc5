"""JSON values: whether what an agent returns can be JSON, and where it cannot."""

from __future__ import annotations

import math
from typing import Any

import orjson

from agentpipe.errors import AnswerError

MAX_ANSWER_BYTES = 64 * 1024 * 1024
MAX_ANSWER_DEPTH = 200


def answer_text(answer: Any) -> str:
    """The answer as evaluators see it: itself, or its JSON.

    Raises:
        AnswerError: It is neither text nor JSON; says where and what it is.
    """
    if isinstance(answer, str):
        data = _encoded(answer)
        text = answer
    else:
        _refuse_what_json_cannot_hold(answer, "the answer", 0)
        data = _encoded(answer)
        text = data.decode()
    if len(data) > MAX_ANSWER_BYTES:
        raise AnswerError(
            f"the answer has {len(data):,} bytes, {MAX_ANSWER_BYTES:,} are allowed: "
            "store it and return its address"
        )
    return text


def _encoded(answer: Any) -> bytes:
    try:
        return orjson.dumps(answer)
    except (TypeError, ValueError, RecursionError) as error:
        raise AnswerError(f"the answer is not text or JSON: {error}") from error


def _refuse_what_json_cannot_hold(value: Any, where: str, depth: int) -> None:
    """Stricter than orjson, which turns NaN into null and dates into texts without a word."""
    if depth > MAX_ANSWER_DEPTH:
        raise AnswerError(f"{where[:60]}...: nested deeper than {MAX_ANSWER_DEPTH}, or in a cycle")
    if value is None or isinstance(value, (str, bool, int)):
        return
    if isinstance(value, float):
        if not math.isfinite(value):
            raise AnswerError(f"{where} is {value}, which is not JSON: return null or a number")
    elif type(value) is dict:
        for name, item in value.items():
            if type(name) is not str:
                raise AnswerError(f"{where} has a key of type {type(name).__name__}: use texts")
            _refuse_what_json_cannot_hold(item, f"{where}[{name[:40]!r}]", depth + 1)
    elif type(value) in (list, tuple):
        for index, item in enumerate(value):
            _refuse_what_json_cannot_hold(item, f"{where}[{index}]", depth + 1)
    else:
        raise AnswerError(f"{where} is of type {type(value).__name__}: return text or JSON")

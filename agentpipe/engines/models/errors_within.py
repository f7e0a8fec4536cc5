"""Errors that come with status 200: in an answer, beside a part of one, or in a stream.

Each gateway has its own format. An answer that an error cut short is never used.
"""

from __future__ import annotations

from typing import Any

from agentpipe.core.numbers import is_integer
from agentpipe.engines.models.service_errors import CLIENT_ERROR

_FAILED = frozenset({"error", "failed", "failure"})
# Keys of an answer or stream event, of either protocol.
_CONTENT = frozenset({"choices", "usage", "content", "delta", "content_block", "index"})
_WORDS = ("message", "detail", "msg", "errors", "code")


def error_within(answer: Any) -> Any:
    """The error in an answer or an event, from any gateway; None if there is none."""
    if isinstance(answer, list):
        return error_within(answer[0]) if answer else None
    if not isinstance(answer, dict):
        return None
    return answer.get("error") or _of_base(answer) or _flat(answer)


def _of_base(answer: dict[str, Any]) -> Any:
    """The error in MiniMax's format."""
    base = answer.get("base_resp")
    if not isinstance(base, dict) or not base.get("status_code"):
        return None
    return {"code": base["status_code"], "message": base.get("status_msg") or "no words"}


def _flat(answer: dict[str, Any]) -> Any:
    """The answer itself, if it is an error."""
    marks = (answer.get(name) for name in ("object", "type", "status"))
    if any(isinstance(mark, str) and mark.lower() in _FAILED for mark in marks):
        return answer
    if answer.get("success") is False or _is_failure(answer.get("code")):
        return answer
    is_event = isinstance(answer.get("type"), str) or _CONTENT & answer.keys()
    return answer if not is_event and any(answer.get(name) for name in _WORDS) else None


def _is_failure(code: Any) -> bool:
    number = int(code) if isinstance(code, str) and code.isdecimal() else code
    return is_integer(number) and number >= CLIENT_ERROR

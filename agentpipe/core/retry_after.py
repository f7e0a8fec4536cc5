"""Retry-After: the delay in seconds that a service asks for, wherever it states it."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from agentpipe.core.causes import attribute, causes
from agentpipe.core.numbers import is_number

if TYPE_CHECKING:
    from collections.abc import Iterator

MAX_ASKED_DELAY_S = 86_400.0
_NUMBER = re.compile(r"\s*[0-9]+(\.[0-9]*)?\s*")
_UNITS_S = {"d": 86_400.0, "h": 3_600.0, "m": 60.0, "s": 1.0, "ms": 0.001, "us": 1e-6, "ns": 1e-9}
# Go's duration format: 6m0s, 1.5s, 20ms.
_PART = re.compile(r"([0-9]{1,12}(?:\.[0-9]{0,12})?)(d|h|ms|m|us|ns|s)")
_DURATION = re.compile(rf"\s{{0,20}}(?:{_PART.pattern}){{1,20}}\s{{0,20}}")
_MAX_CHARS = 100
# Larger numbers are not durations but Unix times, in seconds or milliseconds.
_FIRST_UNIX_S, _FIRST_UNIX_MS = 1e8, 1e11
# x-ratelimit-reset-requests, anthropic-ratelimit-tokens-reset, ratelimit-reset.
_RESET = re.compile(r"(?:[a-z]{1,40}-)?rate-?limit-(?:[\w-]{1,40}-)?reset(?:-[\w-]{1,40})?")

Headers = Mapping[str, Any]


def asked_delay_s(error: BaseException) -> float | None:
    """Return after how many seconds to retry the service; None if it does not say.

    Reads ``retry_after_s`` and the response headers, of the error and of its causes. The first
    readable value counts.
    """
    return _first(chain.from_iterable(map(_asked, causes(error))))


def reset_delay_s(error: BaseException) -> float | None:
    """Return when a rate limit resets, in seconds, from the headers that OpenAI and others send.

    Every response has these headers: call this only if a limit is reached.
    """
    return _first(_reset_s(each) for one in causes(error) for each in _headers_of(one))


def names_a_time(error: BaseException) -> bool:
    """Whether this error says when to retry, or reports a limit with nothing remaining."""
    if next(filter(None, _asked(error)), None) is not None:
        return True
    return any(
        _RESET.fullmatch(name) and _is_used_up(headers, name)
        for headers in _headers_of(error)
        for name in headers
    )


def _first(delays: Iterator[float | None]) -> float | None:
    return next((delay_s for delay_s in delays if delay_s is not None), None)


def _asked(error: BaseException) -> Iterator[float | None]:
    yield seconds(attribute(error, "retry_after_s"))
    for headers in _headers_of(error):
        yield _milliseconds(headers.get("retry-after-ms"))
        yield _retry_after_s(headers.get("retry-after"))


def _headers_of(error: BaseException) -> Iterator[Headers]:
    for holder in (attribute(error, "response"), error):
        yield _lowered(attribute(holder, "headers"))


def _lowered(headers: Any) -> Headers:
    """Return headers with lower-case names, first value wins; some mappings know only one case."""
    try:
        pairs = headers.items() if hasattr(headers, "items") else headers or ()
        return {_text(name).lower(): _value(value) for name, value in reversed(list(pairs))}
    except Exception:  # noqa: BLE001 - they are of foreign classes
        return {}


def _text(name: Any) -> str:
    return name.decode("latin-1") if isinstance(name, bytes) else str(name)


def _value(value: Any) -> Any:
    return value.decode("latin-1") if isinstance(value, bytes) else value


def _milliseconds(value: Any) -> float | None:
    if isinstance(value, str):
        value = float(value) if _NUMBER.fullmatch(value) else None
    milliseconds = seconds(value, MAX_ASKED_DELAY_S * 1000)
    return None if milliseconds is None else milliseconds / 1000


def _retry_after_s(value: Any) -> float | None:
    """Parse a number of seconds or an HTTP date."""
    if not isinstance(value, str):
        return seconds(value)
    return seconds(float(value)) if _NUMBER.fullmatch(value) else _from_now(_http_date(value))


def _reset_s(headers: Headers) -> float | None:
    """Return the longest delay of the exhausted limits, or of all limits if none is exhausted."""
    resets = [name for name in headers if _RESET.fullmatch(name)]
    used_up = [name for name in resets if _is_used_up(headers, name)]
    delays = [_moment_s(headers[name]) for name in used_up or resets]
    return max((delay_s for delay_s in delays if delay_s is not None), default=None)


def _is_used_up(headers: Headers, reset: str) -> bool:
    return str(headers.get(reset.replace("reset", "remaining"))).strip() == "0"


def _moment_s(value: Any) -> float | None:
    """Parse seconds until then from a duration, seconds, a Unix time, an ISO or an HTTP date."""
    if not isinstance(value, str):
        return _by_size(value)
    value = value[:_MAX_CHARS]
    if _NUMBER.fullmatch(value):
        return _by_size(float(value))
    if _DURATION.fullmatch(value):
        return seconds(sum(float(n) * _UNITS_S[unit] for n, unit in _PART.findall(value)))
    return _from_now(_iso_time(value) or _http_date(value))


def _by_size(number: Any) -> float | None:
    if not is_number(number):
        return None
    if number >= _FIRST_UNIX_MS:
        return seconds(number / 1000 - time.time())
    return seconds(number - time.time() if number >= _FIRST_UNIX_S else number)


def _iso_time(value: str) -> datetime | None:
    try:
        return datetime.fromisoformat(value.strip())
    except ValueError:
        return None


def _http_date(value: str) -> datetime | None:
    try:
        return parsedate_to_datetime(value)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _from_now(moment: datetime | None) -> float | None:
    if moment is None:
        return None
    try:
        at = moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()
    except (ValueError, OverflowError):
        return None
    return seconds(at - time.time())


def seconds(value: Any, most: float = MAX_ASKED_DELAY_S) -> float | None:
    """Return a positive, bounded delay; None for anything else."""
    if not is_number(value):
        return None
    bounded = min(value, most)
    return float(bounded) if bounded > 0 else None  # False for NaN.

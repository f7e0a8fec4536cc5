"""Error codes: what services report in an error's code, type or body, besides the HTTP status.

OpenAI's format is ``{"error": {"code", "type", "message"}}``, Anthropic's ``{"type": "error",
"error": {"type", "message"}}``, and Google's has a ``status``. All are compared in lower case.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.causes import attribute, status_of
from agentpipe.core.retry_after import names_a_time

if TYPE_CHECKING:
    from collections.abc import Iterator

QUOTA_CODES = frozenset(
    {
        "billing_error",
        "billing_hard_limit_reached",
        "billing_not_active",
        "credit_balance_exhausted",
        "exceeded_current_quota_error",
        "insufficient_quota",
        "organization_spend_limit_exceeded",
        "project_spend_limit_exceeded",
    }
)
# The wording of Anthropic and DeepSeek, which send no code.
QUOTA_WORDS = re.compile("credit balance is too low|insufficient balance")
CREDENTIAL_CODES = frozenset({"account_deactivated", "api_key_invalid", "invalid_api_key"})
MODEL_CODES = frozenset({"model_not_found"})
SET_UP_CODES = QUOTA_CODES | CREDENTIAL_CODES | MODEL_CODES
# Of errors in a stream, which clients raise without a status, or with that of the response: 200.
SERVICE_CODES = frozenset(
    {
        "api_error",
        "deadline_exceeded",
        "internal_error",
        "internal_server_error",
        "server_error",
        "service_unavailable",
        "timeout_error",
        "unavailable",
    }
)
# rate_limit_error, rate_limit_exceeded, RateLimitReached, too_many_requests, ThrottlingException,
# Throttling.RateQuota, RESOURCE_EXHAUSTED, overloaded_error.
_RATE_LIMIT = re.compile(
    "rate.?limit|too.?many.?requests|throttl|resource_exhausted|overloaded_error"
)
RATE_LIMIT_STATUSES = frozenset({429, 529})
CLIENT_ERROR, FORBIDDEN = 400, 403
# A service can explain these statuses; the others are self-explanatory.
_EXPLAINED = frozenset({400, 402, 403, 429})
# Longer bodies are not error messages.
_MAX_BODY_BYTES = 65_536
_NAMES = ("code", "type", "status")


def codes_of(error: BaseException) -> frozenset[str]:
    """Return the codes and types that a client library's error carries, in lower case."""
    response, known = attribute(error, "response"), attribute(error, "codes")
    holders = (
        {name: attribute(error, name) for name in _NAMES},
        attribute(error, "body"),
        response,  # botocore: a dict with "Error": {"Code"}.
        _body_of(response),
    )
    found = frozenset(code for holder in holders for code in _codes_in(holder))
    return found | known if isinstance(known, (set, frozenset)) else found


def _codes_in(body: Any) -> Iterator[str]:
    """Yield the codes and types in a service's error body, in lower case."""
    described = body[0] if isinstance(body, list) and body else body
    if not isinstance(described, Mapping):
        return
    for name in (*_NAMES, "Code"):
        if isinstance(code := described.get(name), str):
            yield code.lower()
    for name in ("error", "Error"):
        if isinstance(inner := described.get(name), Mapping):
            yield from _codes_in(inner)


def _body_of(response: Any) -> Any:
    """Return the body of a response that was already read; httpx and requests store it."""
    # ``content`` could read from the network if the body was not read yet.
    content = attribute(response, "_content")
    if not isinstance(content, bytes) or len(content) > _MAX_BODY_BYTES:
        return None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def names_the_set_up(error: BaseException) -> bool:
    """Whether codes or message report a spent quota, or a refused key or model."""
    if codes_of(error) & SET_UP_CODES:
        return True
    return status_of(error) in _EXPLAINED and bool(QUOTA_WORDS.search(_words(error).lower()))


def names_a_failed_service(error: BaseException) -> bool:
    """Whether codes in a stream report that the service failed; a status would be more precise."""
    status = status_of(error)
    return (status is None or status < CLIENT_ERROR) and bool(codes_of(error) & SERVICE_CODES)


def is_rate_limit(error: BaseException) -> bool:
    """Whether status, codes or headers report a rate limit rather than a spent quota."""
    codes, status = codes_of(error), status_of(error)
    if codes & SET_UP_CODES:
        return False
    if status in RATE_LIMIT_STATUSES or any(map(_RATE_LIMIT.search, codes)):
        return True
    return status == FORBIDDEN and names_a_time(error)  # As GitHub reports it.


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - foreign code can raise anything
        return ""

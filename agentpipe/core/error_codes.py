"""Error codes: what services say in an error's code, type or body, beside its HTTP status.

OpenAI's form is ``{"error": {"code", "type", "message"}}``, Anthropic's ``{"type": "error",
"error": {"type", "message"}}``, Google's has a ``status``. All are compared in lower case.
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
# As Anthropic and DeepSeek say it, without a code.
QUOTA_WORDS = re.compile("credit balance is too low|insufficient balance")
CREDENTIAL_CODES = frozenset({"account_deactivated", "api_key_invalid", "invalid_api_key"})
MODEL_CODES = frozenset({"model_not_found"})
SET_UP_CODES = QUOTA_CODES | CREDENTIAL_CODES | MODEL_CODES
# rate_limit_error, rate_limit_exceeded, RateLimitReached, too_many_requests, ThrottlingException,
# Throttling.RateQuota, RESOURCE_EXHAUSTED, overloaded_error.
_RATE_LIMIT = re.compile(
    "rate.?limit|too.?many.?requests|throttl|resource_exhausted|overloaded_error"
)
RATE_LIMIT_STATUSES = frozenset({429, 529})
FORBIDDEN = 403
# With these statuses a service may explain itself; the others say enough.
_EXPLAINED = frozenset({400, 402, 403, 429})
# Longer bodies explain nothing.
_MAX_BODY_BYTES = 65_536
_NAMES = ("code", "type", "status")


def codes_of(error: BaseException) -> frozenset[str]:
    """The codes and types that an error of a client library carries, in lower case."""
    response, known = attribute(error, "response"), attribute(error, "codes")
    holders = (
        {name: attribute(error, name) for name in _NAMES},
        attribute(error, "body"),
        response,  # Of botocore: a dict with "Error": {"Code"}.
        _body_of(response),
    )
    found = frozenset(code for holder in holders for code in _codes_in(holder))
    return found | known if isinstance(known, (set, frozenset)) else found


def _codes_in(body: Any) -> Iterator[str]:
    """The codes and types of an error as a service wrote it, in lower case."""
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
    """The body of a response that has been read; httpx and requests keep it there."""
    # Their ``content`` would read one that has not been, from the network.
    content = attribute(response, "_content")
    if not isinstance(content, bytes) or len(content) > _MAX_BODY_BYTES:
        return None
    try:
        return orjson.loads(content)
    except orjson.JSONDecodeError:
        return None


def names_the_set_up(error: BaseException) -> bool:
    """Whether its codes or words say that a quota is spent, or a key or a model is refused."""
    if codes_of(error) & SET_UP_CODES:
        return True
    return status_of(error) in _EXPLAINED and bool(QUOTA_WORDS.search(_words(error).lower()))


def is_rate_limit(error: BaseException) -> bool:
    """Whether its status, codes or headers say that a rate limit is reached, and no quota spent."""
    codes, status = codes_of(error), status_of(error)
    if codes & SET_UP_CODES:
        return False
    if status in RATE_LIMIT_STATUSES or any(map(_RATE_LIMIT.search, codes)):
        return True
    return status == FORBIDDEN and names_a_time(error)  # GitHub's form.


def _words(error: BaseException) -> str:
    try:
        return str(error)
    except Exception:  # noqa: BLE001 - it is another's code
        return ""

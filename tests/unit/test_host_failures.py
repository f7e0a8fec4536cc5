"""How MCP-Universe's process reports a failure, and what the worker makes of it."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agentpipe.core.failures import RateLimit, is_infra, is_permanent, rate_limit
from agentpipe.engines.mcpuniverse.host.failure import (
    LlmFailedError,
    error_record,
    headers_of_limits,
    is_limited_answer,
    is_permanent_answer,
)
from agentpipe.engines.process.agent import failure_of


class SdkError(Exception):
    """An error with any attributes that an SDK's errors have."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("failed")
        self.__dict__.update(attributes)


def responded(status: int, body: Any = None, **headers: str) -> SdkError:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    response = SimpleNamespace(status_code=status, headers=named)
    return SdkError(response=response, body=body, status_code=status)


def passed_on(error: BaseException) -> BaseException:
    return failure_of(error_record(error))


LIMITS = {
    "429": (responded(429), None),
    "529": (responded(529), None),
    "Retry-After": (responded(429, Retry_After="7"), 7),
    "milliseconds": (responded(429, retry_after_ms="1500"), 1.5),
    "reset": (responded(429, x_ratelimit_reset_requests="6m0s"), 360),
    "type": (responded(400, {"error": {"type": "rate_limit_error"}}), None),
    "LLM": (LlmFailedError("x", infra=False, rate_limited=True), None),
    "LLM with headers": (
        LlmFailedError("x", infra=True, rate_limited=True, headers={"retry-after": "7"}),
        7,
    ),
}


@pytest.mark.parametrize(("error", "asked_s"), LIMITS.values(), ids=LIMITS)
def test_a_rate_limit_passes_the_pipe(error: BaseException, asked_s: float | None) -> None:
    failure = passed_on(error)
    assert rate_limit(failure) == RateLimit(asked_s, of_credential=True)
    assert (is_infra(failure), is_permanent(failure)) == (True, False)


@pytest.mark.parametrize(
    "error",
    [
        responded(429, {"code": "insufficient_quota"}),
        responded(400, {"error": {"type": "billing_error"}}),
        LlmFailedError("x", infra=False, rate_limited=True, permanent=True),
    ],
)
def test_so_does_a_spent_quota(error: BaseException) -> None:
    failure = passed_on(error)
    assert is_permanent(failure)
    assert rate_limit(failure) is None


def test_other_failures_are_no_limit() -> None:
    for error in (responded(500), responded(503), responded(400), ValueError("x")):
        assert rate_limit(passed_on(error)) is None
    assert rate_limit(passed_on(responded(503, retry_after="7"))) == RateLimit(
        7, of_credential=False
    )


def test_a_response_is_read_the_same_way() -> None:
    spent = {"error": {"code": "insufficient_quota"}}
    assert is_permanent_answer(429, spent)
    assert is_limited_answer(400, {"error": {"code": "rate_limit_exceeded"}})
    assert not is_limited_answer(400, {"error": {"code": "invalid_request"}})
    headers = {"X-RateLimit-Reset-Tokens": "1s" * 500, "Date": "now", "Retry-After": "1"}
    assert headers_of_limits(headers) == {
        "x-ratelimit-reset-tokens": "1s" * 50,
        "retry-after": "1",
    }

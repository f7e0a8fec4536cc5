"""Failures: the retry time that a service asked for, wherever its client keeps it."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import ssl
import subprocess
import time
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from http.client import IncompleteRead
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.context import Context
from agentpipe.core.failures import (
    RateLimit,
    error_kind,
    error_record,
    error_text,
    is_infra,
    is_permanent,
    rate_limit,
    readable,
)
from agentpipe.core.redaction import Redactor
from agentpipe.core.retry_after import MAX_ASKED_DELAY_S, asked_delay_s
from agentpipe.core.shortage import shortage_of
from agentpipe.errors import AgentFailed, InfraError

if TYPE_CHECKING:
    from collections.abc import Callable


class ClientError(Exception):
    """An error with any attributes that a client's errors have."""

    def __init__(self, **attributes: Any) -> None:
        super().__init__("failed")
        self.__dict__.update(attributes)


def raised_from(cause: BaseException, **attributes: Any) -> ClientError:
    error = ClientError(**attributes)
    error.__cause__ = cause
    return error


def response(headers: Any, **more: Any) -> SimpleNamespace:
    return SimpleNamespace(headers=headers, **more)


def message(value: str) -> Message:
    headers = Message()
    headers["Retry-After"] = value
    return headers


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(InfraError("x", retry_after_s=9), id="InfraError"),
        pytest.param(ClientError(retry_after_s=9.0), id="any error's retry_after_s"),
        pytest.param(ClientError(response=response({"Retry-After": "9"})), id="header"),
        pytest.param(ClientError(response=response({"retry-after": " 9.0 "})), id="lower case"),
        pytest.param(ClientError(response=response({"RETRY-AFTER": 9})), id="upper case"),
        pytest.param(ClientError(response=response([("Retry-After", "9")])), id="pairs"),
        pytest.param(ClientError(response=response({b"retry-after": b"9"})), id="bytes"),
        pytest.param(ClientError(headers=message("9")), id="headers of the error"),
        pytest.param(raised_from(InfraError("x", retry_after_s=9)), id="cause"),
        pytest.param(
            raised_from(raised_from(ClientError(response=response({"Retry-After": "9"})))),
            id="cause of cause",
        ),
        pytest.param(raised_from(InfraError("x", retry_after_s=1), retry_after_s=9), id="first"),
        pytest.param(
            ClientError(retry_after_s="soon", response=response({"Retry-After": "9"})),
            id="the first that can be read",
        ),
    ],
)
def test_the_asked_time_is_found(error: Exception) -> None:
    assert asked_delay_s(error) == 9


def test_an_http_date_is_a_time_from_now() -> None:
    then = datetime.now(UTC) + timedelta(seconds=60)
    for value in (format_datetime(then, usegmt=True), f"{then:%a %b %d %H:%M:%S %Y}"):
        asked = asked_delay_s(ClientError(response=response({"Retry-After": value})))
        assert asked is not None
        assert 50 < asked <= 60


class HostileError(Exception):
    """Raises on any attribute access."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class HostileHeaders:
    """Raises when its items are read."""

    def items(self) -> Any:
        raise RuntimeError("no items")


GARBAGE: list[Any] = [
    "", "soon", "-1", "0", "nan", "inf", "1e3", "0x10", "9 s", "1,5", "\u0663", "Mon, 99 Foo",
    "Thu, 01 Jan 1970 00:00:00 GMT", None, True, [9], {}, b"\xff", -3, 0, float("nan"),
]  # fmt: skip


@pytest.mark.parametrize("value", GARBAGE)
def test_there_is_no_time_in_garbage(value: Any) -> None:
    assert asked_delay_s(ClientError(response=response({"Retry-After": value}))) is None


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(HostileError(), id="hostile"),
        ClientError(response=response(HostileHeaders())),
        ClientError(response=response(7)),
        ClientError(response=response("Retry-After: 9")),
        pytest.param(ClientError(response=HostileError()), id="hostile response"),
        ClientError(),
        ValueError("Retry-After: 9"),
    ],
)
def test_errors_of_any_shape_can_be_asked(error: Exception) -> None:
    assert asked_delay_s(error) is None
    assert rate_limit(error) is None


@pytest.mark.parametrize("asked", [float("inf"), 10**400, 1e9])
def test_the_asked_time_is_bounded(asked: float) -> None:
    assert asked_delay_s(InfraError("x", retry_after_s=asked)) == MAX_ASKED_DELAY_S
    many = ClientError(response=response({"Retry-After": "9" * 400}))
    assert asked_delay_s(many) == MAX_ASKED_DELAY_S


def test_causes_in_a_circle_end() -> None:
    first, second = ClientError(), ClientError()
    first.__cause__, second.__cause__ = second, first
    assert asked_delay_s(first) is None


def model_error(status: int, **headers: str) -> Exception:
    """An error as pydantic-ai raises it: the status on the error, the headers on its cause."""
    cause = ClientError(response=response(headers, status_code=status), status_code=status)
    return raised_from(cause, status_code=status)


@pytest.mark.parametrize("status", [429, 529, 503])
def test_a_named_time_is_a_cooldown(status: int) -> None:
    limit = RateLimit(9, of_credential=status != 503)
    assert rate_limit(model_error(status, **{"retry-after": "9"})) == limit


def test_a_limit_without_a_time_is_one_and_an_unavailable_service_is_not() -> None:
    for status in (429, 529):
        assert rate_limit(model_error(status)) == RateLimit(None, of_credential=True)
    assert rate_limit(model_error(503)) is None
    assert rate_limit(model_error(500, **{"retry-after": "9"})) is None
    assert rate_limit(ClientError(retry_after_s=9)) is None


def test_an_agent_may_name_a_time_itself() -> None:
    assert rate_limit(InfraError("x", retry_after_s=9)) == RateLimit(9, of_credential=False)
    assert rate_limit(InfraError("x")) is None
    told = InfraError("x", retry_after_s=9)
    told.__cause__ = ClientError(status_code=429)
    assert rate_limit(told) == RateLimit(9, of_credential=True)


def test_a_limit_met_in_another_process_is_one() -> None:
    assert rate_limit(AgentFailed("x", rate_limited=True)) == RateLimit(None, of_credential=True)
    assert rate_limit(AgentFailed("x", infra=True)) is None
    assert is_infra(AgentFailed("x", rate_limited=True))


def openai_error(status: int, **error: str) -> ClientError:
    """An error as OpenAI's SDK raises it."""
    body = {"message": "no", **error}
    return ClientError(status_code=status, body=body, **error)


def anthropic_error(status: int, kind: str, text: str = "no") -> ClientError:
    """An error as Anthropic's SDK raises it."""
    error = ClientError(
        status_code=status, body={"type": "error", "error": {"type": kind, "message": text}}
    )
    error.args = (f"Error code: {status} - {text}",)
    return error


def unread(status: int, content: object) -> ClientError:
    """An error as httpx and requests raise it: the body is in the response."""
    return ClientError(response=SimpleNamespace(status_code=status, _content=content))


LIMITS = {
    "OpenAI": openai_error(400, type="requests", code="rate_limit_exceeded"),
    "OpenAI, within a stream": ClientError(code="rate_limit_exceeded", status_code=None),
    "Anthropic": anthropic_error(400, "rate_limit_error"),
    "Anthropic, overloaded": anthropic_error(200, "overloaded_error"),
    "Azure": openai_error(429, code="RateLimitReached"),
    "Google": ClientError(code=429, status="RESOURCE_EXHAUSTED"),
    "Google, in a list": unread(400, b'[{"error": {"status": "RESOURCE_EXHAUSTED"}}]'),
    "Bedrock": ClientError(response={"Error": {"Code": "ThrottlingException"}}),
    "DashScope": openai_error(400, code="Throttling.RateQuota"),
    "httpx": unread(400, b'{"error": {"type": "too_many_requests"}}'),
    "GitHub": ClientError(
        response=response({"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": "1"}, status_code=403)
    ),
    "GitHub, secondary": ClientError(response=response({"retry-after": "9"}, status_code=403)),
    "group": ExceptionGroup("g", [ClientError(status=429), InfraError("x")]),
    "cause is a group": raised_from(ExceptionGroup("g", [ClientError(status=529)])),
}


@pytest.mark.parametrize("error", LIMITS.values(), ids=LIMITS)
def test_a_rate_limit_is_known_by_status_or_code(error: BaseException) -> None:
    limit = rate_limit(error)
    assert limit is not None
    assert limit.of_credential
    assert (is_infra(error), is_permanent(error)) == (True, False)


def named(name: str) -> BaseException:
    """An error of a library that is not installed here, as known by its name."""
    error: BaseException = type(name, (Exception,), {})("failed")
    return error


SERVICES = {
    "OpenAI, within a stream": ClientError(body={"type": "server_error", "message": "sorry"}),
    "Anthropic, within a stream": anthropic_error(200, "api_error"),
    "Google, within a stream": ClientError(status="UNAVAILABLE"),
    "Bedrock": ClientError(response={"ResponseMetadata": {"HTTPStatusCode": 503}, "Error": {}}),
    "urllib, a cut body": IncompleteRead(b"{", 9),
    "requests, a cut body": named("ChunkedEncodingError"),
    "aiohttp, a cut body": named("ClientPayloadError"),
    "urllib3, no answer": named("ReadTimeoutError"),
    "urllib3, no connection": named("NewConnectionError"),
    "TLS": ssl.SSLError("wrong version number"),
    "no route": OSError(errno.EHOSTUNREACH, "No route to host"),
    "no network": OSError(errno.ENETUNREACH, "Network is unreachable"),
}


@pytest.mark.parametrize("error", SERVICES.values(), ids=SERVICES)
def test_a_failed_service_is_known_by_its_clients_error(error: BaseException) -> None:
    assert (is_infra(error), is_permanent(error)) == (True, False)
    assert rate_limit(error) is None


@pytest.mark.parametrize(
    "error", [openai_error(400, type="server_error"), OSError(errno.EISDIR, "a folder"), named("X")]
)
def test_other_errors_are_the_agents(error: BaseException) -> None:
    assert not is_infra(error)


SPENT = {
    "OpenAI": openai_error(429, type="insufficient_quota", code="insufficient_quota"),
    "OpenAI, billing": openai_error(429, code="billing_hard_limit_reached"),
    "Anthropic": anthropic_error(400, "billing_error"),
    "Anthropic, in words": anthropic_error(
        400, "invalid_request_error", "Your credit balance is too low to access the API"
    ),
    "httpx": unread(429, b'{"error": {"code": "insufficient_quota"}}'),
    "cause": raised_from(openai_error(429, code="insufficient_quota")),
    "402": ClientError(status_code=402),
}


@pytest.mark.parametrize("error", SPENT.values(), ids=SPENT)
def test_a_spent_quota_is_a_failure_of_the_set_up_and_no_rate_limit(error: BaseException) -> None:
    assert is_permanent(error)
    assert rate_limit(error) is None


@pytest.mark.parametrize("content", [None, False, b"", b"<html>", b"[]", b"9", b"x" * 100_000])
def test_a_body_of_any_shape_can_be_asked(content: object) -> None:
    assert rate_limit(unread(400, content)) is None
    assert rate_limit(unread(429, content)) == RateLimit(None, of_credential=True)


def until(delay_s: float) -> datetime:
    return datetime.now(UTC) + timedelta(seconds=delay_s)


NAMED: dict[str, tuple[dict[str, str], float]] = {
    "milliseconds": ({"retry-after-ms": "1500"}, 1.5),
    "milliseconds first": ({"Retry-After": "9", "Retry-After-Ms": "1500"}, 1.5),
    "no milliseconds": ({"Retry-After": "9", "Retry-After-Ms": "soon"}, 9),
    "Retry-After first": ({"x-ratelimit-reset-requests": "1s", "retry-after": "9"}, 9),
    "minutes": ({"x-ratelimit-reset-requests": "6m0s"}, 360),
    "seconds": ({"x-ratelimit-reset-tokens": "1s"}, 1),
    "parts of a second": ({"x-ratelimit-reset-tokens": "20ms"}, 0.02),
    "hours": ({"x-ratelimit-reset-tokens": "1h2m3.5s"}, 3723.5),
    "the longest": (
        {"x-ratelimit-reset-tokens": "6s", "x-ratelimit-reset-requests": "20ms"},
        6,
    ),
    "that which is used up": (
        {
            "x-ratelimit-reset-tokens": "6m0s",
            "x-ratelimit-remaining-tokens": "100",
            "x-ratelimit-reset-requests": "2s",
            "x-ratelimit-remaining-requests": "0",
        },
        2,
    ),
    "number": ({"x-ratelimit-reset-requests": "12.5"}, 12.5),
    "draft of a standard": ({"RateLimit-Reset": "7"}, 7),
    "unix": ({"X-RateLimit-Reset": f"{time.time() + 600:.0f}"}, 600),
    "unix in milliseconds": ({"X-RateLimit-Reset": f"{(time.time() + 600) * 1000:.0f}"}, 600),
    "ISO": ({"anthropic-ratelimit-requests-reset": f"{until(600):%Y-%m-%dT%H:%M:%SZ}"}, 600),
    "ISO with a zone": ({"anthropic-ratelimit-tokens-reset": until(600).isoformat()}, 600),
    "HTTP date": ({"x-rate-limit-reset": format_datetime(until(600), usegmt=True)}, 600),
}


@pytest.mark.parametrize(("headers", "asked_s"), NAMED.values(), ids=NAMED)
def test_a_limits_time_is_read(headers: dict[str, str], asked_s: float) -> None:
    limit = rate_limit(ClientError(response=response(headers, status_code=429)))
    assert limit is not None
    tolerance_s = 300 if asked_s == 600 else 1e-6  # These times were computed at collection.
    assert limit.asked_s == pytest.approx(asked_s, abs=tolerance_s)


@pytest.mark.parametrize("value", [*GARBAGE, "6m0", "1s2", "ms", "1" * 10_000, "0s", "0ms"])
def test_a_limit_with_garbage_has_no_time(value: Any) -> None:
    for name in ("x-ratelimit-reset-requests", "retry-after-ms", "anthropic-ratelimit-x-reset"):
        limit = rate_limit(ClientError(response=response({name: value}, status_code=429)))
        assert limit is not None
        assert limit.asked_s in {None, MAX_ASKED_DELAY_S}


def test_the_reset_of_a_limit_that_is_not_reached_means_nothing() -> None:
    headers = {"x-ratelimit-reset-requests": "6m0s"}
    for status in (500, 503):
        error = ClientError(response=response(headers, status_code=status))
        assert rate_limit(error) is None
        assert asked_delay_s(error) is None


def test_of_several_failures_the_longest_time_counts() -> None:
    short, long = (InfraError("x", retry_after_s=asked) for asked in (1, 9))
    group = ExceptionGroup("g", [short, ExceptionGroup("h", [long]), InfraError("x")])
    assert rate_limit(group) == RateLimit(9, of_credential=False)
    assert rate_limit(ExceptionGroup("g", [InfraError("x")])) is None


def test_a_hostile_date_takes_no_time() -> None:
    begun = time.monotonic()
    asked_delay_s(ClientError(response=response({"Retry-After": "Mon, " * 100_000})))
    assert time.monotonic() - begun < 5


# What is missing on the agent's machine.


def caught(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - the test is about it
        return error
    raise AssertionError("it raised nothing")


def a_missing_module() -> None:
    import none_such  # type: ignore[import-not-found]  # noqa: F401


class OpenAIError(Exception):
    """Stands in for the error of OpenAI's SDK when it finds no key."""


def a_client_without_key() -> None:
    raise OpenAIError


MISSING: dict[str, Callable[[], Any]] = {
    "module": a_missing_module,
    "program": lambda: subprocess.run(["/none/such"], check=False),
    "folder": lambda: subprocess.run(["/bin/true"], cwd="/none/such", check=False),
    "not executable": lambda: subprocess.run(["/etc/hostname"], check=False),
    "program of asyncio": lambda: asyncio.run(asyncio.create_subprocess_exec("/none/such")),
    "variable of the context": lambda: Context({"A": "1"}).env["B"],
    "variable of the process": lambda: os.environ["NONE_SUCH"],
    "key": a_client_without_key,
}


@pytest.mark.parametrize("call", MISSING.values(), ids=MISSING)
def test_what_is_missing_here_is_a_failure_of_the_set_up(call: Callable[[], Any]) -> None:
    error = caught(call)
    assert (is_infra(error), is_permanent(error)) == (True, True)
    assert error_record(error, Redactor(()))["permanent"] is True


OWN: dict[str, Callable[[], Any]] = {
    "key of its data": lambda: {"A": 1}["NONE_SUCH"],
    "file": lambda: open("/none/such"),  # noqa: PTH123, SIM115 - it cannot be opened
    "file that is refused": lambda: os.open("/proc/1/mem", os.O_RDWR | os.O_DIRECTORY),
}


@pytest.mark.parametrize("call", OWN.values(), ids=OWN)
def test_what_a_task_may_name_is_the_agents_own(call: Callable[[], Any]) -> None:
    error = caught(call)
    assert (is_infra(error), is_permanent(error)) == (False, False)


# Shortages of the machine.


def while_handling(error: BaseException) -> BaseException:
    def handle() -> None:
        try:
            raise error
        except type(error):
            raise ValueError("cannot go on")  # noqa: B904 - without a cause

    return caught(handle)


def no_fork() -> None:
    raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")


def as_of_subprocess() -> BaseException:
    """The error that ``Popen`` raises when no process can be started."""
    space: dict[str, Any] = {"__name__": "subprocess", "errno": errno}
    exec("def start():\n    raise BlockingIOError(errno.EAGAIN, 'no')", space)
    return caught(space["start"])


def disk_is_full() -> BaseException:
    error = sqlite3.OperationalError("database or disk is full")
    error.sqlite_errorname = "SQLITE_FULL"
    return error


SHORTAGES = {
    "files": OSError(errno.EMFILE, "x"),
    "files of the machine": OSError(errno.ENFILE, "x"),
    "disk": OSError(errno.ENOSPC, "x"),
    "disk of sqlite": disk_is_full(),
    "memory": MemoryError(),
    "memory for a process": OSError(errno.ENOMEM, "x"),
    "threads": RuntimeError("can't start new thread"),
    "processes": as_of_subprocess(),
    "cause of a cause": raised_from(raised_from(OSError(errno.EMFILE, "x"))),
    "cause of a missing module": raised_from(OSError(errno.EMFILE, "x"), status=401),
    "member of a group": ExceptionGroup("g", [ValueError(), OSError(errno.EMFILE, "x")]),
    "while handling it": while_handling(OSError(errno.ENOSPC, "x")),
    "in another process": AgentFailed("x", shortage="memory"),
}


@pytest.mark.parametrize("error", SHORTAGES.values(), ids=SHORTAGES)
def test_a_shortage_of_the_machine_is_never_the_agents_error(error: BaseException) -> None:
    assert shortage_of(error)
    assert (is_infra(error), is_permanent(error)) == (True, False)


def test_a_read_that_would_block_is_no_shortage() -> None:
    error = caught(no_fork)
    assert (shortage_of(error), is_infra(error)) == ("", False)


def test_an_error_that_no_agent_raised_keeps_its_traceback() -> None:
    error = caught(lambda: Redactor(()).text(None))  # type: ignore[arg-type]  # a bug of ours
    while error.__traceback__ and error.__traceback__.tb_frame.f_code.co_filename == __file__:
        error = error.with_traceback(error.__traceback__.tb_next)
    assert "agentpipe/core/" in error_record(error, Redactor(()))["traceback"]


def _nested(levels: int, times: int = 1) -> BaseException:
    error: Exception = ConnectionError("a")
    for _ in range(levels):
        error = ExceptionGroup("g", [error] * times)
    return error


def _in_a_cycle() -> BaseException:
    member = ValueError("a")
    member.__cause__ = group = ExceptionGroup("g", [member])
    return group


@pytest.mark.parametrize("endless", [_nested(2_000), _nested(40, times=2), _in_a_cycle()])
def test_groups_without_an_end_are_the_agents_error(endless: BaseException) -> None:
    """Regression: their result was an `infra_error` of agentpipe, or blocked the loop."""
    error = readable(endless)
    assert error_kind(error) == "ExceptionGroup"
    assert not is_infra(error)
    assert "nothing can be read of it" in error_text(error)


def test_groups_with_an_end_are_read() -> None:
    error = readable(_nested(5, times=3))
    assert is_infra(error)

"""Failures: what a service asked for, wherever its client keeps it."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import subprocess
import time
from datetime import UTC, datetime, timedelta
from email.message import Message
from email.utils import format_datetime
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.context import Context
from agentpipe.core.failures import (
    MAX_ASKED_DELAY_S,
    asked_delay_s,
    error_record,
    hold_s,
    is_infra,
    is_permanent,
)
from agentpipe.core.redaction import Redactor
from agentpipe.core.shortage import shortage_of
from agentpipe.errors import AgentFailed, InfraError

if TYPE_CHECKING:
    from collections.abc import Callable


class ClientError(Exception):
    """With whatever a client's errors have."""

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
    """Breaks whatever touches it."""

    def __getattr__(self, name: str) -> Any:
        raise RuntimeError(name)


class HostileHeaders:
    """Likewise."""

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
    assert hold_s(error) is None


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
    """As pydantic-ai raises it: the status on the error, the headers on its cause."""
    cause = ClientError(response=response(headers, status_code=status), status_code=status)
    return raised_from(cause, status_code=status)


@pytest.mark.parametrize("status", [429, 503])
def test_only_a_service_at_its_limit_is_left_alone(status: int) -> None:
    assert hold_s(model_error(status, **{"retry-after": "9"})) == 9
    assert hold_s(model_error(status)) is None
    assert hold_s(model_error(500, **{"retry-after": "9"})) is None
    assert hold_s(ClientError(retry_after_s=9)) is None
    assert hold_s(InfraError("x", retry_after_s=9)) == 9
    assert hold_s(InfraError("x")) is None


def test_of_several_failures_the_longest_time_counts() -> None:
    short, long = (InfraError("x", retry_after_s=asked) for asked in (1, 9))
    assert hold_s(ExceptionGroup("g", [short, ExceptionGroup("h", [long]), InfraError("x")])) == 9
    assert hold_s(ExceptionGroup("g", [InfraError("x")])) is None


def test_a_hostile_date_takes_no_time() -> None:
    begun = time.monotonic()
    asked_delay_s(ClientError(response=response({"Retry-After": "Mon, " * 100_000})))
    assert time.monotonic() - begun < 5


# What is missing where an agent runs.


def caught(call: Callable[[], Any]) -> BaseException:
    try:
        call()
    except BaseException as error:  # noqa: BLE001 - it is what the test is about
        return error
    raise AssertionError("it raised nothing")


def a_missing_module() -> None:
    import none_such  # type: ignore[import-not-found]  # noqa: F401


class OpenAIError(Exception):
    """As OpenAI's SDK raises it when it finds no key."""


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


# What the machine has no more of.


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
    """What ``Popen`` raises where no process can be started."""
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

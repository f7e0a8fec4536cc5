"""A worker logs once that its broker is unreachable, and once that it answers again."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentpipe.errors import StoreError, Unreachable
from agentpipe.worker.contact import BrokerContact
from agentpipe.worker.ending.cut_off import SILENT_AFTER_S, CutOff

if TYPE_CHECKING:
    from agentpipe.worker.running.message import ClaimedMessage

TICK_S = 0.5
LEASE_S = 6.0


@pytest.fixture(autouse=True)
def logged(caplog: pytest.LogCaptureFixture) -> pytest.LogCaptureFixture:
    caplog.set_level(logging.WARNING)
    return caplog


def test_an_outage_is_said_once_whichever_thread_meets_it(
    logged: pytest.LogCaptureFixture,
) -> None:
    contact = BrokerContact()
    contact.silent("lease", 3.0, 27.0)
    contact.silent("lease", 3.5, 26.5)
    for who in ("consumer", "lease", "consumer"):
        contact.failed(who, Unreachable("redis://x: gone"))
    contact.answered("lease")
    contact.silent("lease", 3.0, 27.0)
    contact.answered("lease")
    contact.answered("consumer")
    contact.answered("consumer")
    assert logged.messages == [
        "the broker has not answered for 3 s; the runs here go on, until the lease is over in 27 s",
        "the broker does not answer, the worker waits for it: redis://x: gone",
        "the broker answers again, after 4 tries",
    ]


def test_another_kind_of_error_is_said_too(logged: pytest.LogCaptureFixture) -> None:
    contact = BrokerContact()
    contact.failed("consumer", Unreachable("gone"))
    contact.failed("consumer", StoreError("no such column"))
    assert len(logged.messages) == 2
    assert "answers with an error" in logged.messages[1]


class _Worker:
    """Stands in for the consumer, the loop, and the exit of the process."""

    def __init__(self, running: int) -> None:
        self.membership = self
        self.renewed_at: float | None = 100.0
        message = type("Message", (), {"settlement": None})
        self.held = [cast("ClaimedMessage", message())] * running
        self.stray_s = 0.0
        self.interrupted = self.ended = 0

    def interrupt(self, messages: list[Any]) -> None:
        self.interrupted = max(self.interrupted, len(messages))

    def end(self, _why: str, *, gives_back: bool) -> None:
        self.ended += not gives_back


def _looked(worker: _Worker, monkeypatch: pytest.MonkeyPatch, until: float, lapses: bool) -> None:  # noqa: FBT001 - as parametrized
    """Check at each tick, with no lease renewal after 100 s."""
    parts: Any = worker
    cut = CutOff(parts, parts, BrokerContact(), parts.end, LEASE_S, lapses=lapses)
    cut.look(TICK_S)
    now = 100.0
    while now < until:
        now += TICK_S
        monkeypatch.setattr("agentpipe.worker.ending.cut_off.time.monotonic", lambda now=now: now)
        cut.look(TICK_S)


@pytest.mark.parametrize(
    ("until", "lapses", "interrupted", "ended"),
    [
        (100 + LEASE_S - TICK_S, True, 0, False),
        (100 + LEASE_S + TICK_S, True, 2, False),
        (100 + LEASE_S + 7.0, True, 2, True),
        (100 + LEASE_S + 60.0, False, 0, False),
    ],
)
def test_runs_end_when_the_lease_is_over_and_the_process_if_they_do_not(
    monkeypatch: pytest.MonkeyPatch,
    *,
    until: float,
    lapses: bool,
    interrupted: int,
    ended: bool,
) -> None:
    worker = _Worker(2)
    _looked(worker, monkeypatch, until, lapses)
    assert (worker.interrupted, worker.ended > 0) == (interrupted, ended)


@pytest.mark.parametrize(("running", "ended"), [(0, True), (1, False)])
def test_a_deaf_run_ends_with_its_process_once_the_others_have_ended(
    monkeypatch: pytest.MonkeyPatch, *, running: int, ended: bool
) -> None:
    worker = _Worker(running)
    worker.stray_s = 1.1
    _looked(worker, monkeypatch, 100 + LEASE_S + 2 * TICK_S, lapses=True)
    assert (worker.ended > 0) == ended


def test_after_a_stop_of_the_process_the_next_heartbeat_is_awaited(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    worker: Any = _Worker(2)
    cut = CutOff(worker, worker, BrokerContact(), worker.end, LEASE_S, lapses=True)
    cut.look(TICK_S)
    monkeypatch.setattr("agentpipe.worker.ending.cut_off.time.monotonic", lambda: 1_000.0)
    for _ in range(int(SILENT_AFTER_S / TICK_S) - 1):
        cut.look(TICK_S)
    assert worker.interrupted == 0
    worker.renewed_at = 1_000.0
    cut.look(TICK_S)
    assert worker.interrupted == 0

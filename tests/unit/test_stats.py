"""The JSON of ``status``, and when a burst is done."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, cast

import orjson
import pytest

from agentpipe.brokers.statistics import QueueDepth, Stats, Tally, WorkerSeen, is_done
from agentpipe.operations.stats import as_dict
from agentpipe.worker.claims.heartbeat import Heartbeat
from agentpipe.worker.fleet.burst import BurstProgress

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store


def test_a_report_that_cannot_be_read_tells_nothing() -> None:
    for report in (b"", b"[]", b"3", b'{"later": 1}', b"\xff"):
        assert Heartbeat.decode(report) == Heartbeat()


EMPTY = Stats(
    accepted=0, waiting=0, delayed=0, running=0, outbox=0, outbox_bytes=0, delivered=0, dead=0
)
IDLE = QueueDepth(
    "crew_0", "crew", waiting=0, delayed=0, running=0, limit=100, concurrency=2, cooldown_s=0.0
)
MINE = frozenset({"crew_0"})


def test_the_ledger_is_the_contracts() -> None:
    tally = Tally(3, 1, 2, 1.5, 0.25, "OSError: gone", 2.00049)
    report = Heartbeat(
        0.25, 1024, "Down: away", 3.0, 4.0, {"crew_0": 61.5}, servers=2, children_bytes=4096
    ).encode()
    stats = replace(
        EMPTY,
        accepted=6,
        waiting=1,
        delayed=1,
        running=1,
        outbox=1,
        outbox_bytes=9,
        delivered=2,
        dead=1,
        outcomes={"ok": 2, "crashed": 1},
        queues=(replace(IDLE, waiting=1, delayed=1, running=1, cooldown_s=1.23456, tally=tally),),
        workers=(WorkerSeen("w", "host", 7, slots=4, running=1, seen_s=0.12345, report=report),),
        tally=tally,
        recent=25,
        undelivered_s=0.5,
    )
    assert as_dict(stats) == {
        "accepted": 6,
        "waiting": 1,
        "delayed": 1,
        "running": 1,
        "outbox": 1,
        "outbox_bytes": 9,
        "undeliverable": None,
        "delivered": 2,
        "outcomes": {"ok": 2, "crashed": 1},
        "dead": 1,
        "per_s": 2.5,
        "undelivered_s": 4.0,
        "evaluated": 2,
        "passed": 1.5,
        "usd": 0.25,
        "agents": [
            {
                "agent": "crew_0",
                "collection": "crew",
                "queue": "crew_0",
                "waiting": 1,
                "delayed": 1,
                "running": 1,
                "limit": 100,
                "concurrency": 2,
                "held_s": 1.235,
                "paused": False,
                "pause_reason": None,
                "budget_spent": False,
                "removed": False,
                "oldest_s": 61.5,
                "done": 3,
                "failed": 1,
                "evaluated": 2,
                "passed": 1.5,
                "usd": 0.25,
                "last_error": "OSError: gone",
                "last_error_s": 2.0,
            }
        ],
        "workers": [
            {
                "worker": "w",
                "host": "host",
                "pid": 7,
                "slots": 4,
                "running": 1,
                "seen_s": 0.123,
                "lag_s": 0.25,
                "rss_bytes": 1024,
                "servers": 2,
                "children_bytes": 4096,
                "sink_down_s": 3.0,
                "sink_error": "Down: away",
                "draining": False,
            }
        ],
        "configs": [],
        "budgets": [],
        "groups": None,
        "policies": [],
        "loops": [],
    }
    orjson.dumps(as_dict(stats))


def test_what_a_broker_cannot_know_is_null() -> None:
    stats = Stats(None, None, None, None, None, None, None, None)
    sums = ("evaluated", "passed", "usd")  # Sums over the reports received: zero so far.
    told = {name: value for name, value in as_dict(stats).items() if name not in sums}
    assert {value for value in told.values() if not isinstance(value, (dict, list))} == {None}


def test_a_burst_is_done_when_nothing_of_its_queues_is_left() -> None:
    assert is_done(replace(EMPTY, queues=(IDLE,)), MINE)
    for stage in ("waiting", "delayed", "running"):
        busy = replace(IDLE, **{stage: 1})  # type: ignore[arg-type]
        assert not is_done(replace(EMPTY, queues=(busy,)), MINE)
    assert not is_done(replace(EMPTY, queues=(IDLE,), outbox=1), MINE)


def test_what_waits_behind_a_pause_with_a_reason_does_not_hold_up_a_burst() -> None:
    stopped = replace(IDLE, waiting=5, delayed=2, paused=True, pause_reason="10 runs failed")
    assert is_done(replace(EMPTY, queues=(stopped,)), MINE)
    assert not is_done(replace(EMPTY, queues=(replace(stopped, pause_reason=""),)), MINE)
    assert not is_done(replace(EMPTY, queues=(replace(stopped, running=1),)), MINE)


@pytest.mark.parametrize(
    ("dead", "said"),
    [
        (0, []),
        (None, []),
        (1, ["1 dead letter now; see: agentpipe dead list"]),
        (1234, ["1,234 dead letters now; see: agentpipe dead list"]),
    ],
)
def test_a_burst_counts_the_dead_letters_at_its_end(
    dead: int | None, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    store = SimpleNamespace(stats=lambda: replace(EMPTY, dead=dead, queues=(IDLE,)))
    progress = BurstProgress(cast("Store", store), MINE, frozenset())
    assert progress.is_done()
    progress.say_dead()
    assert caplog.messages == said


@pytest.mark.parametrize(
    ("delivered", "said"), [(0, "5 tasks to go, 0 delivered"), (None, "5 tasks to go")]
)
def test_a_burst_tells_only_what_the_broker_counts(
    delivered: int | None,
    said: str,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: with RabbitMQ, which counts no deliveries, it said 0 to the end."""
    stats = replace(EMPTY, waiting=5, delivered=delivered, queues=(replace(IDLE, waiting=5),))
    store = SimpleNamespace(stats=lambda: stats)
    progress = BurstProgress(cast("Store", store), MINE, frozenset())
    monkeypatch.setattr(progress, "_log_at", 0.0)
    caplog.set_level("INFO")
    progress.is_done()
    assert caplog.messages == [said]


def test_others_tasks_do_not_hold_up_a_burst() -> None:
    theirs = replace(IDLE, queue="others_0", collection="others", waiting=9)
    assert is_done(replace(EMPTY, waiting=9, queues=(IDLE, theirs)), MINE)

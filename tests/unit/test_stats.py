"""The JSON of ``status``, and when a burst is done."""

from __future__ import annotations

from dataclasses import replace

import orjson

from agentpipe.brokers.store import QueueDepth, Stats, WorkerSeen
from agentpipe.stats import as_dict, is_done

EMPTY = Stats(
    accepted=0, waiting=0, delayed=0, running=0, outbox=0, outbox_bytes=0, delivered=0, dead=0
)
IDLE = QueueDepth(
    "crew_0", "crew", waiting=0, delayed=0, running=0, limit=100, concurrency=2, held_s=0.0
)
MINE = frozenset({"crew_0"})


def test_the_ledger_is_the_contracts() -> None:
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
        queues=(replace(IDLE, waiting=1, delayed=1, running=1, held_s=1.23456),),
        workers=(WorkerSeen("w", "host", 7, slots=4, running=1, seen_s=0.12345),),
    )
    assert as_dict(stats) == {
        "accepted": 6,
        "waiting": 1,
        "delayed": 1,
        "running": 1,
        "outbox": 1,
        "outbox_bytes": 9,
        "delivered": 2,
        "outcomes": {"ok": 2, "crashed": 1},
        "dead": 1,
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
            }
        ],
        "workers": [
            {"worker": "w", "host": "host", "pid": 7, "slots": 4, "running": 1, "seen_s": 0.123}
        ],
    }
    orjson.dumps(as_dict(stats))


def test_what_a_broker_cannot_know_is_null() -> None:
    stats = Stats(None, None, None, None, None, None, None, None)
    assert {value for value in as_dict(stats).values() if not isinstance(value, (dict, list))} == {
        None
    }


def test_a_burst_is_done_when_nothing_of_its_queues_is_left() -> None:
    assert is_done(replace(EMPTY, queues=(IDLE,)), MINE)
    for stage in ("waiting", "delayed", "running"):
        busy = replace(IDLE, **{stage: 1})  # type: ignore[arg-type]
        assert not is_done(replace(EMPTY, queues=(busy,)), MINE)
    assert not is_done(replace(EMPTY, queues=(IDLE,), outbox=1), MINE)


def test_others_tasks_do_not_hold_up_a_burst() -> None:
    theirs = replace(IDLE, queue="others_0", collection="others", waiting=9)
    assert is_done(replace(EMPTY, waiting=9, queues=(IDLE, theirs)), MINE)

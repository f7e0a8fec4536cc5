"""Counters of RabbitMQ workers: added up over snapshots, even when workers end."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from agentpipe.brokers.measures import WIDTH
from agentpipe.brokers.rabbitmq.messages import Message
from agentpipe.brokers.rabbitmq.rpc import Member, Reply, decode, encode
from agentpipe.brokers.rabbitmq.served_agent import Held, ServedAgent
from agentpipe.brokers.rabbitmq.tallies import MeasuresSeen, TallyKeeper
from agentpipe.brokers.records import Claim, Queue, Settlement

LONG_AGO_S = 1_000.0


def reply(name: str, ok: float, age_s: float = 0.0, owner: str = "crew") -> Reply:
    return Reply(Member(name, name), measures={owner: [ok, *[0.0] * (WIDTH - 1)]}, age_s=age_s)


def ok(seen: MeasuresSeen, *replies: Reply) -> float:
    return seen.add(replies)["crew"].outcomes["ok"]


def test_what_was_counted_before_the_first_look_is_left_out() -> None:
    seen = MeasuresSeen()
    assert ok(seen, reply("a", 7, LONG_AGO_S)) == 0
    assert ok(seen, reply("a", 9, LONG_AGO_S)) == 2


def test_the_end_of_a_worker_takes_nothing_away() -> None:
    seen = MeasuresSeen()
    assert ok(seen, reply("a", 0, LONG_AGO_S), reply("b", 0, LONG_AGO_S)) == 0
    assert ok(seen, reply("a", 5, LONG_AGO_S), reply("b", 3, LONG_AGO_S)) == 8
    assert ok(seen, reply("b", 3, LONG_AGO_S)) == 8
    assert ok(seen) == 8


def test_a_worker_that_has_come_since_counts_from_its_start() -> None:
    seen = MeasuresSeen()
    assert ok(seen, reply("a", 5, LONG_AGO_S)) == 0
    assert ok(seen, reply("new", 3)) == 3
    assert ok(seen, reply("old", 100, LONG_AGO_S)) == 3, "it has not answered before"


def test_a_collection_that_comes_later_counts_whole() -> None:
    seen = MeasuresSeen()
    seen.add([reply("a", 5, LONG_AGO_S)])
    later = replace(reply("a", 5, LONG_AGO_S), measures={"other": [2.0, *[0.0] * (WIDTH - 1)]})
    assert seen.add([later])["other"].outcomes["ok"] == 2


def test_numbers_of_other_versions_fit() -> None:
    seen = MeasuresSeen()
    seen.add([replace(reply("a", 0, LONG_AGO_S), measures={"crew": [1.0]})])
    longer = replace(reply("a", 0, LONG_AGO_S), measures={"crew": [4.0] * (WIDTH + 5)})
    assert ok(seen, longer) == 3


def held(since: float) -> Held:
    claim = Claim("a", "crew_0", b"", "w", 1, submitted_at=since - 3.0)
    agent = ServedAgent(Queue("crew_0", "crew"), "crew_0")
    return Held(claim, Message("a", "crew_0", b""), 1, agent, since, begun=time.monotonic() - 10.0)


def test_a_worker_counts_by_collection_with_times(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("time.time", lambda: 0.0)  # The clock went back during the run.
    seen = MeasuresSeen()
    assert seen.add([]) == {}
    keeper, mine = TallyKeeper(), held(since=990.0)
    keeper.add([(Settlement(mine.claim, "complete", b"", "ok", usd=0.5), mine)])
    found = decode(Reply, encode(keeper.reply(Member("w", "w"), frozenset({"crew_0"}))).body)
    assert found is not None
    assert found.drained == {"crew_0"}
    measures = seen.add([found])["crew"]
    assert (measures.outcomes["ok"], measures.usd) == (1, 0.5)
    assert measures.run_s.sum_s >= 10.0
    assert measures.wait_s.sum_s == 3.0


@pytest.mark.parametrize(
    ("state", "drained"),
    [
        ({}, True),
        ({"running": 1}, True),
        ({"running": 2}, False),  # At this limit, the server delivers no more.
        ({"is_consumed": False}, False),
        ({"resting": True}, False),
        ({"leaving": True}, False),
    ],
)
def test_only_an_agent_with_room_for_more_is_drained(
    state: dict[str, Any], *, drained: bool
) -> None:
    queue = Queue("crew_0", "crew", concurrency=2)
    agent = ServedAgent(queue, "crew_0", **{"is_consumed": True, **state})
    assert agent.is_drained == drained

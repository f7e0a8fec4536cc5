"""The order in which a RabbitMQ worker claims its deliveries."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from agentpipe.brokers.rabbitmq.ahead import Ahead
from agentpipe.brokers.rabbitmq.cancel_marks import CancelMarks
from agentpipe.brokers.rabbitmq.deliveries import Deliveries
from agentpipe.brokers.rabbitmq.messages import HEADERS, Message
from agentpipe.brokers.rabbitmq.reception import Reception
from agentpipe.brokers.rabbitmq.served_agent import AHEAD, DEEP_AHEAD, Prefetched
from agentpipe.brokers.records import Queue, Worker
from agentpipe.connections.amqp.arrivals import Delivery


class NoMarks(CancelMarks):
    """No cancel marks."""

    def __init__(self) -> None:
        self.until_ms = {}


def test_what_was_returned_is_claimed_before_first_offers_in_its_own_order() -> None:
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    agent = deliveries.add(Queue("c_0", "c", concurrency=9), "c_0", str)
    arriving = [("new", False), ("killed", True), ("newer", False), ("killed later", True)]
    for tag, (task_id, returned) in enumerate(arriving):
        deliveries.put(agent, Prefetched(Message(task_id, "c_0", b""), tag, returned))
    claims = deliveries.claim(9, lambda: True)
    assert [it.task_id for it in claims] == ["killed", "killed later", "new", "newer"]


def test_only_what_ran_on_a_dead_worker_precedes_other_agents() -> None:
    """Regression: whatever was returned did, also follow-ups and delayed first offers."""
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    verdicts = SimpleNamespace(had_begun=lambda delivered: delivered.task_id == "spared")
    channel: Any = SimpleNamespace(services=SimpleNamespace(verdicts=verdicts))
    consumption: Any = SimpleNamespace(is_left_alone=lambda _: False)
    reception = Reception(channel, deliveries, consumption, 0.0)
    arriving = [("new", "c_0", 0), ("follow-up", "c_1", 0), ("killed", "c_2", 1)]
    arriving += [("killed twice", "c_3", 2), ("spared", "c_4", 0)]
    for tag, (task_id, name, crashes) in enumerate(arriving):
        agent = deliveries.add(Queue(name, "c", max_crashes=9), name, str)
        headers = {HEADERS["task_id"]: task_id, HEADERS["crashes"]: crashes}
        reception.receive(agent, Delivery(tag, False, headers), returned=task_id != "new")
    claims = deliveries.claim(9, lambda: True)
    assert [it.task_id for it in claims] == ["killed", "spared", "new", "follow-up", "killed twice"]


def test_first_offers_are_not_withheld_from_an_agent_whose_runs_are_awaited() -> None:
    """An awaited run can be redelivered from among the first offers."""
    before, queue = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None)), Queue("c_0", "c")
    agent = before.add(queue, "c_0", str)
    before.put(agent, Prefetched(Message("runs", "c_0", b""), 1))
    before.claim(1, lambda: True)
    assert before.may_have_returned(agent)  # Full: the server would deliver no more.
    after = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    after.inherit(before)
    assert not after.may_have_returned(after.add(queue, "c_0", str))


def test_what_runs_next_is_claimed_while_the_last_run_is_settled() -> None:
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    agent = deliveries.add(Queue("c_0", "c", concurrency=1), "c_0", str)
    for tag in range(4):
        deliveries.put(agent, Prefetched(Message(f"t{tag}", "c_0", b""), tag))
    first, *others = deliveries.claim(9, lambda: True)
    assert others == []
    deliveries.begin_settling([first])
    deliveries.begin_settling([first])  # A run ends only once.
    (second,) = deliveries.claim(9, lambda: True)
    deliveries.stop_settling([first])  # Not settled: more runs are active than allowed.
    deliveries.begin_settling([second])
    assert deliveries.claim(9, lambda: True) == []
    deliveries.begin_settling([first])
    for claim in (first, second):
        deliveries.let_go(deliveries.held[claim.number])
    (third,) = deliveries.claim(9, lambda: True)
    assert third.task_id == "t2"
    assert (agent.running, agent.active) == (1, 1)
    assert deliveries.claim(9, lambda: True) == []


def test_who_waits_for_the_end_of_a_suspect_is_woken_by_it() -> None:
    """Its worker does not wait for settlements, and found nothing to claim meanwhile."""
    wakes: list[str] = []
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: wakes.append("woken"), Ahead(None))
    for tag, name in enumerate(("c_0", "c_1")):
        agent = deliveries.add(Queue(name, "c", max_crashes=1), name, str)
        deliveries.put(agent, Prefetched(Message(name, name, b"", suspect=1 - tag), tag))
    claim = deliveries.claim_suspect()
    assert claim is not None
    deliveries.begin_settling([claim])
    assert deliveries.has_suspect
    wakes.clear()
    deliveries.let_go(deliveries.held[claim.number])
    assert wakes == ["woken"]
    assert not deliveries.has_suspect


def test_what_only_lay_here_when_two_connections_were_lost_in_a_row_is_no_crash() -> None:
    before, queue = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None)), Queue("c_0", "c")
    message = Message("t", "c_0", b"")
    before.put(before.add(queue, "c_0", str), Prefetched(message, 1))
    between = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    between.inherit(before)  # Lost before the redelivery.
    after = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    after.inherit(between)
    assert not after.is_lost(message, redelivered=True)
    assert after.is_lost(message, redelivered=True)  # Another worker had it in between.


def test_a_delivery_to_an_agent_without_room_wakes_nobody() -> None:
    """The end of a run makes it claimable."""
    wakes: list[str] = []
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: wakes.append("woken"), Ahead(None))
    agent = deliveries.add(Queue("c_0", "c", concurrency=1), "c_0", str)
    deliveries.put(agent, Prefetched(Message("t0", "c_0", b""), 0))
    (first,) = deliveries.claim(9, lambda: True)
    assert wakes.pop() == "woken"
    deliveries.put(agent, Prefetched(Message("t1", "c_0", b""), 1))
    assert deliveries.has_nothing
    assert wakes == []
    deliveries.let_go(deliveries.held[first.number])
    assert wakes == ["woken"]
    assert [it.task_id for it in deliveries.claim(9, lambda: True)] == ["t1"]


def serving(agents: int, concurrency: int = 1) -> Deliveries:
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    for number in range(agents):
        deliveries.add(Queue(f"c_{number}", "c", concurrency=concurrency), f"c_{number}", str)
    return deliveries


@pytest.mark.parametrize(
    ("agents", "concurrency", "run_s", "task_bytes", "ahead"),
    [
        (8, 1, 0.001, 2_000, DEEP_AHEAD),
        (9, 1, 0.001, 2_000, AHEAD),  # Together they have as many as few agents.
        (65, 1, 0.001, 2_000, 1),
        (8, 1, 0.02, 2_000, AHEAD),  # A task of a higher priority would wait for seconds.
        (8, 4, 0.02, 2_000, DEEP_AHEAD),
        (8, 1, 0.001, 200_000, AHEAD),  # They would fill the memory.
        (8, 1, 0.5, 2_000, 1),
    ],
)
def test_many_tasks_lie_ready_only_if_they_are_small_and_soon_worked_off(
    agents: int, concurrency: int, run_s: float, task_bytes: int, ahead: int
) -> None:
    deliveries = serving(agents, concurrency)
    agent = deliveries.agents["c_0"]
    for _ in range(20):
        agent.note_run(run_s, task_bytes)
    assert deliveries.ahead_of(agent, concurrency) == ahead


def test_a_run_ends_once() -> None:
    deliveries = serving(1, concurrency=2)
    for tag, task_id in enumerate("ab"):
        deliveries.put(deliveries.agents["c_0"], Prefetched(Message(task_id, "c_0", b""), tag))
    first, second = deliveries.claim(2, lambda: True)
    assert [it.claim for it in deliveries.begin_settling([first])] == [first]
    assert [it.claim for it in deliveries.begin_settling([first, second])] == [second]


def test_a_single_longer_run_does_not_end_it() -> None:
    agent = serving(1).agents["c_0"]
    for _ in range(20):
        agent.note_run(0.005, 100)
    assert agent.is_instant
    assert not agent.note_run(0.05, 100)
    assert agent.is_instant

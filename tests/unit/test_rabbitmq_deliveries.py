"""The order in which a RabbitMQ worker claims its deliveries."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

import pytest

from agentpipe.brokers.rabbitmq import awaited_runs, served_agent
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


def test_what_ran_on_a_dead_worker_is_claimed_before_what_was_returned_earlier() -> None:
    """Regression: a culprit that was delivered first ended the next worker first, too."""
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    agent = deliveries.add(Queue("c_0", "c", concurrency=9), "c_0", str)
    for tag, (task_id, recovers) in enumerate([("culprit", False), ("a", True), ("b", True)]):
        deliveries.put(agent, Prefetched(Message(task_id, "c_0", b""), tag, True, recovers))
    claims = deliveries.claim(9, lambda: True)
    assert [it.task_id for it in claims] == ["a", "b", "culprit"]


@pytest.mark.parametrize("risky", [{"crashes": 1, "culprit": 1}, {"crashes": 2}])
def test_what_may_end_its_worker_waits_until_all_that_a_dead_worker_ran_is_here(
    risky: dict[str, Any],
) -> None:
    """Regression: it began while verdicts on its neighbours were on their way."""
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    agent, other = (
        deliveries.add(Queue(name, "c", max_crashes=9), name, str) for name in ("c_0", "c_1")
    )
    message = Message("risky", "c_0", b"", **risky)
    deliveries.put(agent, Prefetched(message, 1, returned=True))
    other.judging = 1
    assert deliveries.claim(9, lambda: True) == []
    other.judging, other.is_opening = 0, True
    assert deliveries.claim(9, lambda: True) == []
    other.is_opening = False
    assert [it.task_id for it in deliveries.claim(9, lambda: True)] == ["risky"]


RISKY = Message("risky", "c_0", b"", crashes=1, culprit=1)


def test_a_culprit_waits_for_the_runs_that_it_has_interrupted() -> None:
    """Regression: it was claimed with them, sometimes began first, and interrupted them again."""
    deliveries = serving(2)
    deliveries.put(deliveries.agents["c_0"], Prefetched(RISKY, 1, returned=True))
    again = Prefetched(Message("again", "c_1", b""), 2, returned=True, recovers=True)
    deliveries.put(deliveries.agents["c_1"], again)
    (claim,) = deliveries.claim(9, lambda: True)
    assert claim.task_id == "again"
    assert deliveries.claim(9, lambda: True) == []
    deliveries.let_go(deliveries.held[claim.number])
    assert [it.task_id for it in deliveries.claim(9, lambda: True)] == ["risky"]


def test_a_culprit_holds_up_no_other_agent_of_its_concurrency_group() -> None:
    """Regression: the group waited for the culprit, which began before what it had interrupted."""
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    for name in ("c_0", "c_1"):
        queue = Queue(name, "c", concurrency_group="g", concurrency_group_limit=2)
        deliveries.add(queue, "g", lambda _: "g")
    deliveries.put(deliveries.agents["c_0"], Prefetched(RISKY, 1, returned=True))
    again = Prefetched(Message("again", "c_1", b""), 2, returned=True, recovers=True)
    deliveries.put(deliveries.agents["c_1"], again)
    (claim,) = deliveries.claim(9, lambda: True)
    assert claim.task_id == "again"
    deliveries.let_go(deliveries.held[claim.number])
    assert [it.task_id for it in deliveries.claim(9, lambda: True)] == ["risky"]


def test_what_may_end_its_worker_waits_for_what_would_run_twice() -> None:
    deliveries = serving(2)
    deliveries.put(deliveries.agents["c_1"], Prefetched(Message("ended", "c_1", b""), 1))
    (claim,) = deliveries.claim(9, lambda: True)
    deliveries.put(deliveries.agents["c_0"], Prefetched(RISKY, 2, returned=True))
    deliveries.begin_settling([claim])
    with deliveries.exposed.moving():
        assert deliveries.claim(9, lambda: True) == []
        deliveries.let_go(deliveries.held[claim.number])
        assert deliveries.claim(9, lambda: True) == []
    assert [it.task_id for it in deliveries.claim(9, lambda: True)] == ["risky"]


def test_what_may_end_its_worker_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    deliveries = serving(1)
    deliveries.put(deliveries.agents["c_0"], Prefetched(RISKY, 1, returned=True))
    with deliveries.exposed.moving():
        assert deliveries.claim(9, lambda: True) == []
        monkeypatch.setattr(served_agent, "POSTPONED_S", 0.0)
        assert [it.task_id for it in deliveries.claim(9, lambda: True)] == ["risky"]


def test_first_offers_that_lie_here_are_not_claimed_before_the_last_returned_task() -> None:
    """More returned tasks can be on their way than may be delivered at once."""
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    agent = deliveries.add(Queue("c_0", "c", concurrency=9), "c_0", str)
    agent.is_withheld = True
    for tag, (task_id, returned) in enumerate([("new", False), ("returned", True)]):
        deliveries.put(agent, Prefetched(Message(task_id, "c_0", b""), tag, returned))
    assert [it.task_id for it in deliveries.claim(9, lambda: True)] == ["returned"]
    assert deliveries.has_nothing
    agent.is_withheld = False
    deliveries.give_turns([agent])
    assert [it.task_id for it in deliveries.claim(9, lambda: True)] == ["new"]


def test_only_what_ran_on_a_dead_worker_precedes_other_agents() -> None:
    """Regression: whatever was returned did, also follow-ups and delayed first offers."""
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    verdicts = SimpleNamespace(had_begun=lambda delivered: delivered.task_id == "spared")
    channel: Any = SimpleNamespace(services=SimpleNamespace(verdicts=verdicts))
    consumption: Any = SimpleNamespace(is_left_alone=lambda _: False)
    reception = Reception(channel, deliveries, consumption, 0.0)
    arriving = [("new", "c_0", 0), ("follow-up", "c_1", 0), ("culprit", "c_2", 1)]
    arriving += [("killed", "c_3", 1), ("killed twice", "c_4", 2), ("spared", "c_5", 0)]
    for tag, (task_id, name, crashes) in enumerate(arriving):
        agent = deliveries.add(Queue(name, "c", max_crashes=9), name, str)
        headers = {HEADERS["task_id"]: task_id, HEADERS["crashes"]: crashes}
        headers[HEADERS["culprit"]] = int(task_id == "culprit")
        reception.receive(agent, Delivery(tag, False, headers), returned=task_id != "new")
    first, then = ["killed", "killed twice", "spared"], ["new", "follow-up"]
    assert [it.task_id for it in deliveries.claim(9, lambda: True)] == [*first, *then]


def test_first_offers_are_not_withheld_from_an_agent_whose_runs_are_awaited() -> None:
    """An awaited run can be redelivered from among the first offers."""
    before, queue = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None)), Queue("c_0", "c")
    agent = before.add(queue, "c_0", str)
    before.put(agent, Prefetched(Message("runs", "c_0", b""), 1))
    before.claim(1, lambda: True)
    assert before.may_have_returned(agent)  # Full: the server would deliver no more.
    after = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    after.inherit(before, is_connected=False)
    assert not after.may_have_returned(after.add(queue, "c_0", str))


def test_one_id_that_ran_under_two_agents_goes_on_under_both() -> None:
    """Regression: one agent counted the run of the other for ever, and had no room."""
    before, after = (
        Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None)) for _ in range(2)
    )
    names = ("c_0", "c_1")
    for tag, name in enumerate(names):
        agent = before.add(Queue(name, "c", concurrency=1), name, str)
        before.put(agent, Prefetched(Message("t", name, b""), tag))
    assert len(before.claim(9, lambda: True)) == 2
    after.inherit(before, is_connected=False)
    for tag, name in enumerate(names):
        agent = after.add(Queue(name, "c", concurrency=1), name, str)
        assert after.resume(agent, Prefetched(Message("t", name, b""), tag))
    for held in list(after.held.values()):
        after.let_go(held)
    assert not after.awaited
    assert [(it.running, it.active) for it in after.agents.values()] == [(0, 0), (0, 0)]


def test_a_run_goes_on_with_its_own_task_if_its_id_was_sent_again() -> None:
    """Regression: its end removed the other task, which never ran."""
    before, after = (serving(1) for _ in range(2))
    runs, waits = (Message("t", "c_0", b"", submitted_ms=number) for number in (1, 2))
    before.put(before.agents["c_0"], Prefetched(runs, 1))
    before.claim(9, lambda: True)
    after.inherit(before, is_connected=False)
    assert not after.resume(after.agents["c_0"], Prefetched(waits, 1))
    assert after.resume(after.agents["c_0"], Prefetched(runs, 2))


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


@pytest.mark.parametrize("is_connected", [True, False])
def test_a_culprit_waits_for_runs_that_go_on_after_their_channel_was_closed(
    *, is_connected: bool
) -> None:
    """Regression: the next channel did not know that a worker's end had interrupted them."""
    before, after = (serving(2) for _ in range(2))
    message = Message("again", "c_1", b"")
    before.put(before.agents["c_1"], Prefetched(message, 2, returned=True, recovers=True))
    assert len(before.claim(9, lambda: True)) == 1
    after.inherit(before, is_connected=is_connected)
    after.put(after.agents["c_0"], Prefetched(RISKY, 1, returned=True))
    assert after.claim(9, lambda: True) == []
    assert after.resume(after.agents["c_1"], Prefetched(message, 2))
    assert after.claim(9, lambda: True) == []
    after.let_go(*after.held.values())
    assert [it.task_id for it in after.claim(9, lambda: True)] == ["risky"]


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


def test_a_run_is_not_overdue_before_its_agent_was_searched(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: its time ran while its worker took over a thousand other agents."""
    before, after = (serving(1) for _ in range(2))
    before.put(before.agents["c_0"], Prefetched(Message("t", "c_0", b""), 1))
    before.claim(1, lambda: True)
    after.inherit(before, is_connected=False)
    monkeypatch.setattr(awaited_runs, "REUNION_S", 0.0)
    assert after.awaited.overdue == []
    after.agents["c_0"].searched_at = time.monotonic()
    assert [it.claim.task_id for it in after.awaited.overdue] == ["t"]


def test_awaited_runs_are_counted_by_agent() -> None:
    before, after = (serving(3, concurrency=9) for _ in range(2))
    tasks = [("a", "c_0"), ("b", "c_0"), ("a", "c_1")]
    for tag, (task_id, name) in enumerate(tasks):
        before.put(before.agents[name], Prefetched(Message(task_id, name, b""), tag))
    before.claim(9, lambda: True)
    after.inherit(before, is_connected=False)
    assert [after.awaited.of(f"c_{number}") for number in range(3)] == [2, 1, 0]
    assert after.awaited.queues == {"c_0", "c_1"}
    after.awaited.take(Message("a", "c_0", b""))
    assert after.awaited.take(Message("a", "c_0", b"")) is None
    after.awaited.take(Message("a", "c_1", b""))
    assert [after.awaited.of(f"c_{number}") for number in range(3)] == [1, 0, 0]
    assert after.awaited.queues == {"c_0"}

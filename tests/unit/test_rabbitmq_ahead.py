"""What a RabbitMQ worker notes for its watcher about its deliveries."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.rabbitmq import reception as reception_module
from agentpipe.brokers.rabbitmq.ahead import Ahead, unread
from agentpipe.brokers.rabbitmq.cancel_marks import CancelMarks
from agentpipe.brokers.rabbitmq.deliveries import Deliveries
from agentpipe.brokers.rabbitmq.messages import HEADERS, Message
from agentpipe.brokers.rabbitmq.reception import Reception
from agentpipe.brokers.records import Queue, Worker
from agentpipe.connections.amqp.arrivals import Delivery
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.core.delivered import Delivered
from agentpipe.core.thread_marks import NO_RUN

if TYPE_CHECKING:
    import pytest


class NoMarks(CancelMarks):
    """No cancel marks."""

    def __init__(self) -> None:
        self.until_ms = {}


class Notes:
    """Room for some notes."""

    def __init__(self, room: int) -> None:
        self.room, self.laid = room, dict[int, Delivered]()

    def lay(self, delivered: Delivered) -> int:
        if len(self.laid) == self.room:
            return NO_RUN
        place = max(self.laid, default=0) + 1
        self.laid[place] = delivered
        return place

    def let_go(self, place: int) -> None:
        self.laid.pop(place, None)


def test_an_agent_is_noted_as_long_as_it_is_served() -> None:
    notes = Notes(room=9)
    ahead = Ahead(notes)
    for queue in ("one", "two", "three"):
        ahead.serve(queue)
    ahead.add(1, Message("t", "one", b""))
    ahead.give_up(["one", "unknown"])
    assert [*notes.laid.values()] == [unread("two"), unread("three"), Delivered("t", 0)]
    ahead.clear()
    assert notes.laid == {}


def test_agents_give_up_their_notes_for_tasks_until_there_is_room() -> None:
    """Regression: they were not noted again, and what lay unread counted a crash from then on."""
    notes = Notes(room=2)
    ahead = Ahead(notes)
    for queue in ("one", "two"):
        ahead.serve(queue)
    for tag, task_id in enumerate("tuv"):
        ahead.add(tag, Message(task_id, "one", b""))
        if not tag:
            assert {*notes.laid.values()} == {unread("two"), Delivered("t", 0)}
    assert {*notes.laid.values()} == {Delivered("t", 0), Delivered("u", 0)}
    ahead.drop([0])
    assert [*notes.laid.values()] == [Delivered("u", 0)]  # The third can begin without a note.
    ahead.drop([2])
    assert {*notes.laid.values()} == {Delivered("u", 0), unread("one")}
    ahead.drop([1])
    assert {*notes.laid.values()} == {unread("one"), unread("two")}


def test_an_agent_that_is_given_up_is_not_noted_when_there_is_room() -> None:
    notes = Notes(room=1)
    ahead = Ahead(notes)
    ahead.add(0, Message("t", "one", b""))
    for queue in ("one", "two"):
        ahead.serve(queue)
    ahead.give_up(["one"])
    ahead.drop([0])
    assert [*notes.laid.values()] == [unread("two")]


def test_a_lost_connection_notes_nothing_more() -> None:
    """Regression: a verdict that came later was noted for good."""
    notes = Notes(room=9)
    before, after = Ahead(notes), Ahead(notes)
    after.inherit(before, {})
    before.serve("one")
    before.add(1, Message("t", "one", b""))
    assert notes.laid == {}


def test_nothing_is_noted_without_a_watcher() -> None:
    ahead = Ahead(None)
    ahead.serve("one")
    ahead.give_up(["one"])


def test_an_agent_is_not_noted_while_one_of_its_tasks_has_no_note() -> None:
    notes = Notes(room=1)
    ahead = Ahead(notes)
    for tag, task_id in enumerate(("t", "u")):
        ahead.add(tag, Message(task_id, "one", b""))
    ahead.drop([0])
    ahead.serve("one")
    assert notes.laid == {}
    ahead.drop([1])
    ahead.serve("one")
    assert [*notes.laid.values()] == [unread("one")]


def test_notes_of_a_lost_connection_stay_until_the_tasks_come_again() -> None:
    notes = Notes(room=9)
    ahead, tasks = Ahead(notes), {tag: Message(f"t{tag}", "one", b"") for tag in range(3)}
    for tag, message in tasks.items():
        ahead.add(tag, message)
    ahead.serve("one")
    kept = {tag: tasks[tag].delivered for tag in (0, 1)}
    Ahead(notes).inherit(ahead, kept)  # Lost as well, before it was used.
    after = Ahead(notes)
    after.inherit(ahead, kept)
    assert {*notes.laid.values()} == {*kept.values()}
    places = dict(notes.laid)
    after.add(7, tasks[0])
    assert notes.laid == places
    after.forget_kept()
    assert [*notes.laid.values()] == [tasks[0].delivered]
    after.drop([7])
    assert notes.laid == {}


def test_a_verdict_that_could_not_be_carried_out_is_carried_out_later(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: if another channel closed meanwhile, its agent was not noted for a while."""
    notes, looked = Notes(room=9), asyncio.Event()
    begun: list[Any] = []
    failures = iter([ChannelClosed("another one")])

    async def spare(*_: Any) -> bool:
        return False

    async def carry_out(_: Delivered) -> None:
        for failure in failures:
            raise failure

    monkeypatch.setattr(reception_module, "AGAIN_S", 0.0)
    raw = SimpleNamespace(is_open=True)
    verdicts = SimpleNamespace(blame=spare, had_begun=lambda _: False)
    services = SimpleNamespace(verdicts=verdicts, carry_out=carry_out)
    channel: Any = SimpleNamespace(
        raw=raw, services=services, look=looked, wake=lambda: None, begin=begun.append
    )
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(notes))
    agent = deliveries.add(Queue("one", "c"), "one", str)
    agent.is_withheld = True
    consumption: Any = SimpleNamespace(is_left_alone=lambda _: False)
    reception = Reception(channel, deliveries, consumption, 0.0)
    reception.receive(agent, Delivery(1, True, {HEADERS["task_id"]: "t"}), returned=False)
    assert notes.laid == {}
    asyncio.run(begun.pop())
    assert [*notes.laid.values()] == [Delivered("t", 0), unread("one")]
    assert len(agent.ready) == 1
    assert looked.is_set()


def test_a_worker_whose_successor_failed_leaves_no_notes_behind() -> None:
    """Regression: what the successor was to go on with was noted for good."""
    notes, message = Notes(room=9), Message("t", "one", b"")
    before = Ahead(notes)
    before.add(1, message)
    Ahead(notes).inherit(before, {1: message.delivered})
    before.clear()
    assert notes.laid == {}


def test_a_verdict_is_not_carried_out_on_a_closed_channel() -> None:
    """Regression: the task was delivered again, and counted a crash for want of a verdict."""
    carried_out: list[Delivered] = []
    begun: list[Any] = []
    raw = SimpleNamespace(is_open=True)

    async def spare(*_: Any) -> bool:
        raw.is_open = False
        return False

    async def carry_out(*spared: Delivered) -> None:
        carried_out.extend(spared)

    verdicts = SimpleNamespace(blame=spare, had_begun=lambda _: True)
    services = SimpleNamespace(verdicts=verdicts, carry_out=carry_out)
    channel: Any = SimpleNamespace(raw=raw, services=services, begin=begun.append)
    deliveries = Deliveries(Worker("w"), NoMarks(), lambda: None, Ahead(None))
    agent = deliveries.add(Queue("one", "c"), "one", str)
    consumption: Any = SimpleNamespace(is_left_alone=lambda _: False)
    reception = Reception(channel, deliveries, consumption, 0.0)
    reception.receive(agent, Delivery(1, True, {HEADERS["task_id"]: "t"}), returned=False)
    asyncio.run(begun.pop())
    assert carried_out == []
    assert not agent.ready

"""What a RabbitMQ worker notes for its watcher about its deliveries."""

from __future__ import annotations

from agentpipe.brokers.rabbitmq.ahead import Ahead, unread
from agentpipe.brokers.rabbitmq.messages import Message
from agentpipe.core.delivered import Delivered
from agentpipe.core.thread_marks import NO_RUN


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


def test_agents_are_not_noted_when_a_task_can_begin_without_a_note() -> None:
    notes = Notes(room=2)
    ahead = Ahead(notes)
    ahead.serve("one")
    for tag, task_id in enumerate(("t", "u")):
        ahead.add(tag, Message(task_id, "one", b""))
    assert [*notes.laid.values()] == [Delivered("t", 0)]
    ahead.serve("two")
    assert [*notes.laid.values()] == [Delivered("t", 0), unread("two")]


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

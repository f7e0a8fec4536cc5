"""What a RabbitMQ worker remembers of the tasks that its closed channel had received."""

from __future__ import annotations

from agentpipe.brokers.rabbitmq.messages import Message
from agentpipe.brokers.rabbitmq.received import Received

TASK = Message("t", "one", b"{}", submitted_ms=1)


def after(*earlier: Received, is_connected: bool = True) -> Received:
    """What follows after these, one after the other."""
    last = earlier[0]
    for each in (*earlier[1:], Received()):
        each.inherit(last, ["one"], is_connected=is_connected)
        last = each
    return last


def test_what_only_lay_here_when_two_connections_were_lost_in_a_row_is_no_crash() -> None:
    before = Received()
    before.add(1, TASK)
    now = after(before, Received(), is_connected=False)  # Lost before the redelivery.
    assert now.recall(TASK) == "ours"
    assert now.recall(TASK) is None  # Another worker had it in between.


def test_equal_copies_are_remembered_each() -> None:
    before = Received()
    for tag in (1, 2):
        before.add(tag, TASK)
    before.acknowledge([1], is_over=False)
    now = after(before)
    assert [now.recall(TASK) for _ in range(3)] == ["ours", "ours", None]


def test_what_was_settled_is_over_only_where_the_connection_lives() -> None:
    """Another one can be to a server with older data, which knows of no settlement."""
    before = Received()
    before.add(1, TASK)
    before.acknowledge([1], is_over=True)
    assert after(before).recall(TASK) == "over"
    assert after(before, is_connected=False).recall(TASK) == "ours"


def test_what_was_blamed_is_blamed_again_on_another_connection() -> None:
    before = Received()
    before.add(1, TASK, is_judged=True)
    assert after(before).recall(TASK) is None
    before.acknowledge([1], is_over=False)
    assert after(before).recall(TASK) == "judged"
    assert after(before, is_connected=False).recall(TASK) is None


def test_nothing_is_remembered_that_the_server_has_heard() -> None:
    before = Received()
    for tag in (1, 2):
        before.add(tag, TASK)
    before.acknowledge([1], is_over=True)
    with before.answering():
        before.acknowledge([2], is_over=True)
    now = after(before)
    assert [now.recall(TASK) for _ in range(2)] == ["over", None]


def test_what_was_expected_is_forgotten() -> None:
    before = Received()
    before.unbegun.add("two")
    before.add(1, TASK)
    now = after(before)
    assert now.unbegun == {"one", "two"}
    now.forget_earlier(["two"])
    assert now.unbegun == {"two"}
    assert now.recall(TASK) is None

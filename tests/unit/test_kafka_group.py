"""A Kafka reader's duties to its group, without a server: shares, claims and commits."""

from __future__ import annotations

import struct
import threading
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from kafka import TopicPartition
from kafka import errors as kafka
from kafka.protocol.consumer.metadata import ConsumerProtocolSubscription

from agentpipe.sinks.base import Record
from agentpipe.sinks.kafka import commits as commits_module
from agentpipe.sinks.kafka.assignment import Assignment
from agentpipe.sinks.kafka.assignor import PinningAssignor, keep_pinned, pinned_in
from agentpipe.sinks.kafka.commits import Commits
from agentpipe.sinks.kafka.lent import Lent
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

PATIENCE_S = 20.0


def parts(*numbers: int, topic: str = "t") -> set[TopicPartition]:
    return {TopicPartition(topic, number) for number in numbers}


def record(partition: int, offset: int) -> Record:
    return Record(f"{partition}-{offset}", b"", (partition, offset))


# Shares.


def test_a_pinned_partition_stays_and_another_moves_in_its_place() -> None:
    shares = {"old": parts(1), "new": parts(0)}
    keep_pinned(shares, {"old": parts(0)})
    assert shares == {"old": parts(0), "new": parts(1)}


@pytest.mark.parametrize("kept", [set(), parts(1, topic="another"), parts(1)])
def test_a_pinned_partition_moves_where_no_other_can(kept: set[TopicPartition]) -> None:
    shares = {"old": set(kept), "new": parts(0)}
    keep_pinned(shares, {"old": parts(0, 1)})
    assert shares == {"old": kept, "new": parts(0)}


@pytest.mark.parametrize("told", [None, b"", b"\0\0\0\1", b"\0\0\0\1{", b'\0\0\0\1["t"]', b"\xff"])
def test_a_member_that_is_not_ours_pins_nothing(told: bytes | None) -> None:
    assert pinned_in(SimpleNamespace(user_data=told)) == set()


@pytest.fixture
def sent() -> list[dict[int, int]]:
    return []


@pytest.fixture
def commits(sent: list[dict[int, int]]) -> Iterator[Commits]:
    opened = Commits(sent.append)
    yield opened
    opened.close()


@pytest.fixture
def lent() -> Lent:
    return Lent()


@pytest.fixture
def assignment(lent: Lent, commits: Commits) -> Assignment:
    made = Assignment("t", lent, commits, claim_s=600)
    made.generation = lambda: 7
    return made


def in_use(lent: Lent, each: Record) -> None:
    lent.add(each)
    assert lent.take(each)


def test_a_member_tells_what_it_owns_and_uses_as_javas_members_expect(
    assignment: Assignment, lent: Lent
) -> None:
    assignment.on_partitions_assigned(parts(0, 1, 2))
    in_use(lent, record(1, 5))
    told = PinningAssignor(assignment).metadata({"t"})
    assert struct.unpack(">i", told.user_data[:4]) == (7,)
    assert pinned_in(told) == parts(1)
    read = ConsumerProtocolSubscription.decode(told.encode())
    assert PinningAssignor.parse_member_metadata(read).partitions == sorted(parts(0, 1, 2))
    assert pinned_in(read) == parts(1)


@pytest.mark.parametrize("used", [0, 1])
def test_a_leader_moves_what_nobody_uses(assignment: Assignment, lent: Lent, used: int) -> None:
    assignment.on_partitions_assigned(parts(0, 1))
    in_use(lent, record(used, 5))
    assignor = PinningAssignor(assignment)
    new = Assignment("t", Lent(), Commits(print), claim_s=1)
    members = [
        SimpleNamespace(member_id=name, metadata=PinningAssignor(each).metadata({"t"}))
        for name, each in (("old", assignment), ("new", new))
    ]
    cluster = SimpleNamespace(topics=lambda: {"t"}, partitions_for_topic=lambda _: {0, 1})
    shares = assignor.assign(cluster, members)
    assert shares["old"].partitions() == [TopicPartition("t", used)]
    assert shares["new"].partitions() == []  # The other partition has to be given up first.


# Claims.


def test_what_is_not_in_use_goes_with_its_partition(assignment: Assignment, lent: Lent) -> None:
    assignment.on_partitions_assigned(parts(0, 1))
    for each in (record(0, 1), record(1, 1), record(0, 2)):
        lent.add(each)
    assignment.on_partitions_revoked(parts(0))
    assert [lent.take(each) for each in (record(0, 1), record(1, 1), record(0, 2))] == [
        False,
        True,
        False,
    ]
    assert assignment.owned() == parts(1)


def test_a_partition_is_claimed_until_its_record_is_used_and_committed(
    assignment: Assignment, lent: Lent, commits: Commits, sent: list[dict[int, int]]
) -> None:
    assignment.on_partitions_assigned(parts(0, 1))
    in_use(lent, record(0, 4))
    assignment.on_partitions_revoked(parts(0))
    assert not assignment.end_claims()
    assert (assignment.owned(), assignment.pinned()) == (parts(0, 1), parts(0))
    commits.add(lent.use(record(0, 4)))
    wait_until(assignment.end_claims, PATIENCE_S, "it is committed")
    assert sent == [{0: 5}]
    assert assignment.owned() == parts(1)


def test_a_claim_ends_with_its_time(lent: Lent, commits: Commits) -> None:
    assignment = Assignment("t", lent, commits, claim_s=0)
    assignment.generation = lambda: 7
    assignment.on_partitions_assigned(parts(0))
    in_use(lent, record(0, 4))
    assignment.on_partitions_revoked(parts(0))
    wait_until(assignment.end_claims, PATIENCE_S, "it ends")
    assert lent.use(record(0, 4)) == {}


def test_who_is_no_member_owns_nothing_and_what_it_used_is_not_committed(
    assignment: Assignment, lent: Lent
) -> None:
    assignment.on_partitions_assigned(parts(0, 1))
    in_use(lent, record(0, 4))
    assignment.generation = lambda: -1
    assert assignment.owned() == set()
    assignment.on_partitions_lost(parts(0, 1))
    assert lent.use(record(0, 4)) == {}


# Commits.


class SlowBroker:
    """Answers when the test allows it."""

    def __init__(self) -> None:
        self.sent: list[dict[int, int]] = []
        self.answers: list[BaseException | None] = []
        self._ready = threading.Semaphore(0)

    def __call__(self, offsets: dict[int, int]) -> None:
        self.sent.append(offsets)
        self._ready.acquire()
        if (error := self.answers.pop(0)) is not None:
            raise error

    def answer(self, error: BaseException | None = None) -> None:
        self.answers.append(error)
        self._ready.release()


def in_thread(work: Callable[[], None]) -> threading.Thread:
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread


def test_what_is_used_after_a_while_is_committed_at_once_and_what_follows_is_gathered(
    commits: Commits, sent: list[dict[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GATHER_S", "COMMIT_WITHIN_S"):
        monkeypatch.setattr(commits_module, name, 600)
    commits.add({0: 1})
    wait_until(lambda: sent == [{0: 1}], PATIENCE_S, "the first is sent")
    commits.add({0: 2})
    commits.add({0: 3})
    commits.close()
    assert sent == [{0: 1}, {0: 3}]


def test_what_is_used_while_a_commit_is_under_way_travels_together() -> None:
    broker = SlowBroker()
    commits = Commits(broker)
    commits.add({0: 1})
    wait_until(lambda: broker.sent, PATIENCE_S, "the first is sent")

    def add_more() -> None:
        for each in ({0: 2}, {1: 9}, {0: 3}):
            commits.add(each)

    thread = in_thread(add_more)
    broker.answer()
    thread.join(PATIENCE_S)
    broker.answer()
    broker.answer()
    commits.close()
    assert broker.sent[0] == {0: 1}
    assert len(broker.sent) <= 3
    assert {0: 3, 1: 9}.items() <= {**broker.sent[-2], **broker.sent[-1]}.items()


def test_a_reader_gets_no_further_ahead_than_it_may(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits_module, "COMMIT_WITHIN_S", 0)
    broker = SlowBroker()
    commits = Commits(broker)
    thread = in_thread(lambda: commits.add({0: 1}))
    wait_until(lambda: broker.sent, PATIENCE_S, "it is sent")
    assert thread.is_alive()
    broker.answer()
    thread.join(PATIENCE_S)
    assert not thread.is_alive()
    commits.close()


def test_a_commit_that_fails_is_told_and_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commits_module, "COMMIT_WITHIN_S", 0)
    monkeypatch.setattr(commits_module, "PATIENCE_S", 2.0)
    sent: list[dict[int, int]] = []
    failing = threading.Event()
    failing.set()

    def send(offsets: dict[int, int]) -> None:
        if failing.is_set():
            raise kafka.KafkaConnectionError("gone")
        sent.append(offsets)

    commits = Commits(send)
    with pytest.raises(kafka.KafkaConnectionError, match="gone"):
        commits.add({0: 1})
    failing.clear()
    commits.add({0: 2})
    assert sent == [{0: 2}]
    commits.close()


def test_a_rebalance_delays_a_commit_and_a_loss_ends_it() -> None:
    broker = SlowBroker()
    commits = Commits(broker)
    commits.add({0: 1})
    broker.answer(kafka.RebalanceInProgressError())
    wait_until(lambda: broker.sent == [{0: 1}] * 2, PATIENCE_S, "it is sent again")
    assert (commits.partitions(), commits.behind(0)) == ({0}, 1)
    broker.answer(kafka.CommitFailedError())
    wait_until(lambda: not commits.partitions(), PATIENCE_S, "it is given up")
    commits.close()


def test_what_is_dropped_is_not_sent_again() -> None:
    broker = SlowBroker()
    commits = Commits(broker)
    commits.add({0: 1, 1: 1})
    wait_until(lambda: broker.sent, PATIENCE_S, "it is sent")
    commits.drop({0})
    broker.answer(kafka.RebalanceInProgressError())
    wait_until(lambda: len(broker.sent) == 2, PATIENCE_S, "the rest is sent again")
    broker.answer()
    commits.close()
    assert broker.sent[1] == {1: 1}


def test_closing_stores_what_was_used(commits: Commits, sent: list[dict[int, int]]) -> None:
    commits.add({0: 1})
    commits.add({0: 2})
    commits.close()
    assert sent[-1] == {0: 2}

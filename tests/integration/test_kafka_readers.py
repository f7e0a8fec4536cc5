"""Readers of a Kafka topic: how a group's members share it, and what a kill repeats."""

from __future__ import annotations

import multiprocessing
import random
import time
from collections import Counter
from contextlib import closing
from queue import Empty
from typing import TYPE_CHECKING

import orjson
import pytest
from kafka import KafkaProducer
from kafka.admin import KafkaAdminClient

from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import COMMIT_WITHIN_S, Record
from agentpipe.sinks.kafka import reader as kafka_reader
from agentpipe.sinks.stream import Stream
from brokers.server_kafka import KafkaServer
from tests.integration.readers import use_all, use_some
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from agentpipe.sinks.base import Reader, Sink, Start
    from tests.servers import OwnServer

PATIENCE_S = 60.0
PARTITIONS = 4
SPAWN = multiprocessing.get_context("spawn")


@pytest.fixture
def url(kafka_server: KafkaServer, topic: str) -> str:
    return f"{kafka_server.url}/{topic}?partitions={PARTITIONS}"


def results(ids: Iterable[object]) -> list[Record]:
    return [Record(str(it), orjson.dumps(Result(task_id=str(it)).to_dict())) for it in ids]


def read(reader: Reader, number: int) -> list[Record]:
    found: list[Record] = []

    def enough() -> bool:
        found.extend(reader.poll(100, 0.2))
        return len(found) >= number

    wait_until(enough, PATIENCE_S, f"{number} records")
    return found


# Sharing.


def test_a_buffer_does_not_outlive_its_partitions(sink: Sink, topic: str) -> None:
    """No record goes to two readers, even if one is in hand while its partition could move."""
    sink.publish(results(range(40)))
    first = sink.follow(topic, "beginning")
    assert isinstance(first, kafka_reader.KafkaReader)
    polled = read(first, 40)
    in_hand = polled[0]
    assert first.take(in_hand)
    second = sink.follow(topic, "beginning")
    theirs: list[Record] = []

    def has_a_share() -> bool:
        theirs.extend(second.poll(100, 0.2))
        return len({record.position[0] for record in theirs}) == PARTITIONS // 2

    wait_until(has_a_share, PATIENCE_S, "the second has half of the partitions")
    mine = [in_hand, *(record for record in polled[1:] if first.take(record))]
    assert len(mine) + len(theirs) == 40
    ids = {record.task_id for record in (*mine, *theirs)}
    assert len(ids) == 40
    first.commit(mine[-1])
    second.commit(theirs[-1])
    for reader in (first, second):
        reader.close()
    third = sink.follow(topic, "beginning")
    assert third.poll(100, 0) == []
    third.close()


@pytest.mark.long
def test_readers_that_come_and_go_use_each_result_once(sink: Sink, url: str, topic: str) -> None:
    """Three readers at a time, in separate processes; none is killed."""
    total, dice = 60, random.Random(5)
    sink.publish(results(range(total)))
    used, found = SPAWN.Queue(), Counter[str]()
    readers: list[multiprocessing.process.BaseProcess] = []

    def all_are_used() -> bool:
        readers[:] = [reader for reader in readers if reader.is_alive()]
        if len(readers) < 3:
            arguments = (url, topic, dice.randrange(2, 9), 0.5, used)
            readers.append(SPAWN.Process(target=use_some, args=arguments, daemon=True))
            readers[-1].start()
        try:
            found[used.get(timeout=1)] += 1
        except Empty:
            return len(found) == total
        return False

    wait_until(all_are_used, 240, "all are used")
    for reader in readers:
        reader.kill()
        reader.join()
    assert found == Counter(str(number) for number in range(total))


# Added partitions.


@pytest.fixture
def server(kafka_server: KafkaServer) -> str:
    return kafka_server.url.removeprefix("kafka://")


def add_partitions(server: str, topic: str, count: int) -> None:
    admin = KafkaAdminClient(bootstrap_servers=server)
    admin.create_partitions({topic: count})
    wait_until(
        lambda: len(admin.describe_topics([topic])[0]["partitions"]) == count,
        PATIENCE_S,
        "they are there",
    )
    admin.close()


def publish_to_each(server: str, topic: str, count: int, name: str) -> set[str]:
    """Publish one result to each partition; return their ids."""
    producer = KafkaProducer(bootstrap_servers=server)
    ids = [f"{name}-{partition}" for partition in range(count)]
    for partition, record in enumerate(results(ids)):
        producer.send(topic, record.payload, key=record.task_id.encode(), partition=partition).get(
            PATIENCE_S
        )
    producer.close()
    return set(ids)


@pytest.fixture
def _seen_soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(kafka_reader, "METADATA_MS", 300)


@pytest.mark.usefixtures("_seen_soon")
def test_partitions_that_are_added_are_read(sink: Sink, server: str, topic: str) -> None:
    starts: tuple[Start, ...] = ("beginning", "now", time.time())
    kinds = [(start, grouped) for start in starts for grouped in (False, True)]
    readers = [
        sink.follow(f"{topic}-{start}" if grouped else None, start) for start, grouped in kinds
    ]
    expected = publish_to_each(server, topic, PARTITIONS, "before")
    found = [read(reader, PARTITIONS) for reader in readers]
    add_partitions(server, topic, 2 * PARTITIONS)
    expected |= publish_to_each(server, topic, 2 * PARTITIONS, "after")
    for reader, kind, before in zip(readers, kinds, found, strict=True):
        ids = [record.task_id for record in (*before, *read(reader, 2 * PARTITIONS))]
        assert sorted(ids) == sorted(expected), kind
        reader.close()


def test_what_came_into_added_partitions_while_nobody_read_is_not_skipped(
    sink: Sink, server: str, topic: str
) -> None:
    """The group started with ``now`` and the old partitions: it reads all of the added ones."""
    publish_to_each(server, topic, PARTITIONS, "old")
    sink.follow(topic, "now").close()
    add_partitions(server, topic, 2 * PARTITIONS)
    expected = publish_to_each(server, topic, 2 * PARTITIONS, "new")
    with closing(sink.follow(topic, "now")) as reader:
        found = [record.task_id for record in read(reader, 2 * PARTITIONS)]
    assert sorted(found) == sorted(expected)


# Commits.


def test_what_was_used_is_committed_while_its_caller_is_busy_with_the_next(
    sink: Sink, server: str, topic: str
) -> None:
    sink.publish(results(range(10)))
    with Stream(sink.follow(topic, "beginning")) as stream:
        used = iter(stream)
        for _ in range(4):
            next(used)
        wait_until(lambda: committed(server, topic) == 3, PATIENCE_S, "three are committed")


def committed(server: str, group: str) -> int:
    with closing(KafkaAdminClient(bootstrap_servers=server)) as admin:
        offsets = admin.list_group_offsets([group])[group]
    return sum(max(0, each.offset) for each in offsets.values())


@pytest.mark.long
class TestKilledReaders:
    @pytest.fixture
    def server(self, own_server: OwnServer) -> KafkaServer:
        return own_server(KafkaServer, settings={"group.min.session.timeout.ms": "500"})

    @pytest.mark.parametrize(("total", "use_s"), [(3_000, 0.001), (70, COMMIT_WITHIN_S)])
    def test_a_kill_repeats_what_was_used_in_the_last_moment_and_loses_nothing(
        self, server: KafkaServer, topic: str, tmp_path: Path, total: int, use_s: float
    ) -> None:
        """The time of each use limits how many fit between two commits."""
        kills = 6
        url, journal = f"{server.url}/{topic}?session_s=1&partitions=2", tmp_path / "used"
        with closing(open_sink(Settings(sink=url))) as sink:
            sink.publish(results(range(total)))
        journal.touch()
        for kill in range(1, kills + 1):
            goal = kill * total // (kills + 1)
            reader = SPAWN.Process(
                target=use_all, args=(url, topic, str(journal), use_s, None), daemon=True
            )
            reader.start()
            wait_until(lambda: _lines(journal) >= goal, PATIENCE_S, f"{goal} uses")  # noqa: B023
            reader.kill()
            reader.join()
        use_all(url, topic, str(journal), 0, 3)
        used = Counter(journal.read_text().split())
        assert len(used) == total
        in_hand = 2
        assert used.total() <= total + kills * (COMMIT_WITHIN_S / use_s + in_hand)


def _lines(journal: Path) -> int:
    return journal.read_bytes().count(b"\n")

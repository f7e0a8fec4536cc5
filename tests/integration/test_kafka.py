"""Kafka only: topics, limits, groups by partition, and broker outages."""

from __future__ import annotations

import gc
import itertools
import os
import signal
import time
from collections import Counter
from contextlib import closing
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from kafka import KafkaProducer, codec
from kafka.admin import KafkaAdminClient
from kafka.protocol.admin.client_quotas import AlterClientQuotasRequest

from agentpipe.core.groups import GroupEnd, is_group_record
from agentpipe.core.result import Result
from agentpipe.errors import ConfigError, Unreachable
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.sinks.kafka import batches, producer, record_batch
from agentpipe.sinks.kafka.address import KafkaAddress
from agentpipe.sinks.kafka.connection import TopicConnection
from agentpipe.sinks.stream import Stream
from brokers.ports import HOST, free_port
from brokers.server_kafka import KafkaServer
from tests.integration.proxy import Proxy
from tests.servers import self_signed
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.sinks.base import Reader, Sink
    from tests.integration.project import Fleet, Project
    from tests.servers import OwnServer

PARTITIONS = 4


@pytest.fixture
def url(kafka_server: KafkaServer, topic: str) -> str:
    return f"{kafka_server.url}/{topic}?partitions={PARTITIONS}"


@pytest.fixture
def admin(kafka_server: KafkaServer) -> Iterator[KafkaAdminClient]:
    client = KafkaAdminClient(bootstrap_servers=kafka_server.url.removeprefix("kafka://"))
    yield client
    client.close()


def record(task_id: str, **fields: Any) -> Record:
    return Record(task_id, orjson.dumps(Result(task_id=task_id, **fields).to_dict()))


def read_all(sink: Sink) -> list[Result]:
    reader = sink.follow(None, "beginning")
    found = list(Stream(reader, timeout_s=0))
    reader.close()
    return found


def test_the_topic_is_made_as_the_url_says(sink: Sink, admin: KafkaAdminClient, topic: str) -> None:
    reader = sink.follow(None, "beginning")
    assert reader.poll(1, 0) == []
    reader.close()
    (described,) = admin.describe_topics([topic])
    assert len(described["partitions"]) == PARTITIONS


@pytest.mark.long
def test_a_topic_that_was_deleted_is_made_again(
    sink: Sink, admin: KafkaAdminClient, topic: str
) -> None:
    sink.publish([record("before")])
    group = sink.follow("trainer", "beginning")
    group.commit(read(group, 1, limit=1)[0])
    assert group.poll(1, 0) == []
    admin.delete_topics([topic])
    wait_until(lambda: topic not in admin.list_topics(), 20, "it is gone")

    def is_taken() -> bool:
        try:
            sink.publish([record("after")])
        except Unreachable:
            return False
        return True

    wait_until(is_taken, 60, "results are taken again")
    assert [each.task_id for each in read_all(sink)] == ["after"]
    (found,) = read(group, 1, limit=1)
    assert found.task_id == "after"
    group.close()


def test_a_trace_of_20_mb_is_cut_and_what_comes_after_is_not_held_up(sink: Sink) -> None:
    noise = os.urandom(5_000).hex()
    spans = [{"span_index": index, "text": noise} for index in range(2_000)]
    sink.publish([record("a"), record("large", result="answer", trace=spans), record("z")])
    found = {each.task_id: each for each in read_all(sink)}
    assert set(found) == {"a", "large", "z"}
    large = found["large"]
    assert large.result == "answer"
    assert large.truncated is not None
    assert large.truncated["spans"] == 2_000
    assert "max.message.bytes" in large.truncated["remedy"]
    assert large.trace[0]["span_index"] == 0
    assert large.trace[-1]["span_index"] == 1_999


def test_what_others_put_into_the_topic_is_skipped_and_counted(
    sink: Sink, kafka_server: KafkaServer, topic: str
) -> None:
    producer = KafkaProducer(bootstrap_servers=kafka_server.url.removeprefix("kafka://"))
    for value, key in ((b"\xff\xfe", None), (None, b"k"), (b"{", b"\xff"), (b'{"schema": 9}', b"")):
        producer.send(topic, value, key=key).get(10)
    producer.close()
    sink.publish([record("a")])
    group = f"group-{topic}"
    with Stream(sink.follow(group, "beginning"), timeout_s=0.5) as stream:
        assert [each.task_id for each in stream] == ["a"]
        assert stream.skipped == 4
    again = Stream(sink.follow(group, "beginning"), timeout_s=0.5)
    assert list(again) == []
    again.close()


def _snappy(data: bytes) -> bytes:
    """Encode in Snappy's block format: runs of a byte as copies, other bytes as literals."""
    length, rest = bytearray(), len(data)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    length.append(rest)
    block = bytes(length)
    for _, group in itertools.groupby(data):
        run = bytes(group)
        block += b"\x00" + run[:1]  # A literal of one byte.
        for start in range(1, len(run), 64):
            size = min(64, len(run) - start)
            block += bytes([(size - 1) << 2 | 2]) + b"\x01\x00"  # A copy of ``size`` bytes.
    return block


def _damage(log: Path, number: int) -> None:
    """Change the last byte of batch ``number``."""
    data, end = bytearray(log.read_bytes()), 0
    for _ in range(number):
        end += 12 + int.from_bytes(data[end + 8 : end + 12], "big")
    data[end - 1] ^= 1
    log.write_bytes(data)


def _others_batch(server: KafkaServer, topic: str, compression: str, value: bytes) -> None:
    bootstrap = server.url.removeprefix("kafka://")
    producer = KafkaProducer(
        bootstrap_servers=bootstrap, compression_type=compression, max_request_size=2**30
    )
    for number in range(2):  # In one batch or two.
        producer.send(topic, value, key=str(number).encode(), partition=0)
    producer.close()


def test_a_batch_that_cannot_be_decoded_is_skipped_and_counted(
    kafka_server: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    monkeypatch.setattr(batches, "MAX_BATCH_BYTES", 2**20)
    opened = open_sink(Settings(sink=f"{kafka_server.url}/{topic}?partitions=1"))
    opened.publish([record("a")])
    with monkeypatch.context() as installed:
        installed.setattr(codec, "snappy", SimpleNamespace(compress=_snappy))
        _others_batch(kafka_server, topic, "snappy", bytes(10_000))
    _others_batch(kafka_server, topic, "gzip", bytes(2**21))
    opened.publish([record("b")])
    group = f"group-{topic}"
    with Stream(opened.follow(group, "beginning"), timeout_s=0.5) as stream:
        assert [each.task_id for each in stream] == ["a", "b"]
        assert 2 <= stream.skipped <= 4
    (said,) = [each for each in caplog.records if each.levelname == "WARNING"]
    assert "install python-snappy" in said.getMessage()
    with Stream(opened.follow(group, "beginning"), timeout_s=0.5) as again:
        assert [each.task_id for each in again] == []
        assert again.skipped == 0
    opened.close()


def test_a_reader_that_lacks_the_package_of_its_own_url_is_refused(
    kafka_server: KafkaServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "zstd", None)
    opened = open_sink(Settings(sink=f"{kafka_server.url}/{topic}?compression=zstd"))
    with pytest.raises(ConfigError, match="zstd"):
        opened.follow(None, "beginning")
    opened.close()


@pytest.mark.long
def test_a_batch_that_the_disk_has_damaged_is_skipped(own_server: OwnServer, topic: str) -> None:
    server = own_server(KafkaServer)
    sink_url = f"{server.url}/{topic}?partitions=1"
    opened = open_sink(Settings(sink=sink_url))
    for task_id in ("a", "lost", "b"):
        opened.publish([record(task_id)])
    opened.close()
    server.stop()
    (log,) = (server.folder / "data").glob(f"{topic}-0/*.log")
    _damage(log, 2)
    server.start()
    opened = open_sink(Settings(sink=sink_url))
    stream = Stream(opened.follow(None, "beginning"), timeout_s=0)
    assert [each.task_id for each in stream] == ["a", "b"]
    assert stream.skipped == 1
    stream.close()
    opened.close()


def _limit_producers(url: str, bytes_per_s: float) -> None:
    """Set the quota of all clients."""
    of_all = AlterClientQuotasRequest.EntryData.EntityData(
        entity_type="client-id", entity_name=None
    )
    rate = AlterClientQuotasRequest.EntryData.OpData(key="producer_byte_rate", value=bytes_per_s)
    entry = AlterClientQuotasRequest.EntryData(entity=[of_all], ops=[rate])
    connection = TopicConnection(KafkaAddress.parse(url))
    connection.open()
    request = AlterClientQuotasRequest(entries=[entry], validate_only=False)
    (answer,) = connection.answer(connection.send(request)).entries
    connection.close()
    assert answer.error_code == 0, answer


@pytest.mark.long
def test_a_quota_that_is_used_up_is_told_as_such_and_repeats_nothing(
    own_server: OwnServer, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(producer, "DELIVERY_S", 0.5)
    url = f"{own_server(KafkaServer).url}/{topic}?partitions=1&compression=none"
    published: list[str] = []

    def refusal(task_id: str, answer: str) -> str:
        try:
            sink.publish([record(task_id, result=answer)])
        except Unreachable as error:
            return str(error)
        published.append(task_id)
        return ""

    with closing(open_sink(Settings(sink=url))) as sink:
        _limit_producers(url, 2_048)
        # The broker can take a moment to apply the quota.
        told = wait_until(lambda: refusal("a", "x" * 20_000), 30, "the quota is used up")
        assert "a quota is used up, so the broker throttles this client" in told
        wait_until(lambda: not refusal("b", ""), 600, "the quota allows more")
        reader = sink.follow(None, "beginning")
        found = read(reader, len(published), limit=100)
        assert [each.task_id for each in found] == published
        assert reader.poll(1, 0) == []
        reader.close()


@pytest.mark.parametrize("hours", [2, 24 * 365, -24 * 365])
def test_a_wrong_clock_makes_no_result_undeliverable(
    sink: Sink, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, hours: int
) -> None:
    wrong = SimpleNamespace(time=lambda: time.time() + hours * 3600)
    monkeypatch.setattr(record_batch, "time", wrong)
    sink.publish([record(f"t-{number}") for number in range(20)])
    sink.publish([record("last")])
    assert len(read_all(sink)) == 21
    said = [each for each in caplog.messages if "refuses this machine's time" in each]
    assert len(said) == (hours > 0)


def test_other_clients_find_the_task_in_the_key(sink: Sink, url: str) -> None:
    sink.publish([record("task-7")])
    (found,) = sink.follow(None, "beginning").poll(1, 10)
    assert found.task_id == "task-7"
    assert found.position == (found.position[0], 0)
    assert "password" not in url


def test_a_group_is_in_one_partition_and_its_records_have_their_tasks_ids(
    kafka_server: KafkaServer, topic: str
) -> None:
    sink = open_sink(Settings(sink=f"{kafka_server.url}/{topic}?partitions=8"))
    names = [f"g{number}" for number in range(12)]
    sink.publish([record(f"{name}/{index}", group_id=name) for index in range(4) for name in names])
    ends = [
        GroupEnd(name, "complete", 4, tuple(f"{name}/{it}" for it in range(4))) for name in names
    ]
    sink.publish([Record(end.group_id, end.encode()) for end in ends])
    sink.publish([record("alone", result='"group_id":"g0"')])
    found, reader = list[Record](), sink.follow(None, "beginning")

    def all_came() -> bool:
        found.extend(reader.poll(100, 1))
        return len(found) == 61

    wait_until(all_came, 20, "all records")
    partitions: dict[str, set[int]] = {}
    for each in found:
        name = each.task_id.partition("/")[0]
        partitions.setdefault(name, set()).add(each.position[0])
    assert set(partitions) == {*names, "alone"}
    assert {len(each) for each in partitions.values()} == {1}
    assert len(set.union(*partitions.values())) > 1
    results = [it.task_id for it in found if not is_group_record(it.payload)]
    assert results == [Result.decode(it.payload).task_id for it in found if it.task_id in results]
    reader.close()
    sink.close()


def test_a_publication_whose_reply_is_lost_is_sent_again_and_makes_no_repeat(
    kafka_server: KafkaServer, topic: str
) -> None:
    """The batches repeat their sequence numbers: the broker drops those that it has."""
    with Proxy(kafka_server.port, odds=0.3, by_name=True) as proxy:
        through = f"partitions={PARTITIONS}&proxy=socks5h://{HOST}:{proxy.port}"
        sink = open_sink(Settings(sink=f"{kafka_server.url}/{topic}?{through}"))
        sink.publish([])
        proxy.may_lose, sent = 20, 0
        while proxy.may_lose:
            sink.publish([record(str(number)) for number in range(sent, sent + 8)])
            sent += 8
        reader = sink.follow(None, "beginning")
        found = [*read(reader, sent, limit=100), *reader.poll(100, 1)]
        reader.close()
        assert sorted(int(each.task_id) for each in found) == list(range(sent))
        for partition in range(PARTITIONS):
            its = [int(each.task_id) for each in found if each.position[0] == partition]
            assert its == sorted(its)
        sink.close()


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://127.0.0.1:1/topic", "start Kafka"),
        ("kafka://someone:hunter22@127.0.0.1:1/topic", "start Kafka"),
    ],
)
def test_no_broker_is_one_line_without_a_password(url: str, said: str) -> None:
    with pytest.raises(Unreachable, match=said) as caught:
        open_sink(Settings(sink=url))
    assert "hunter22" not in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.long
@pytest.mark.filterwarnings(  # The client never closes a refused login's sockets.
    "ignore::pytest.PytestUnraisableExceptionWarning"
)
def test_a_login_that_the_broker_does_not_know_is_told_in_one_line(
    kafka_server: KafkaServer, topic: str
) -> None:
    server = kafka_server.url.removeprefix("kafka://")
    with pytest.raises(Unreachable) as caught:
        open_sink(Settings(sink=f"kafka://someone:hunter22@{server}/{topic}"))
    assert "hunter22" not in str(caught.value)
    assert "\n" not in str(caught.value)
    del caught
    gc.collect()  # Here, where their warnings are ignored.


class TestOfWorkers:
    @pytest.fixture
    def sink_url(self, url: str) -> str:
        return url

    @pytest.mark.long
    def test_workers_killed_while_they_publish_leave_one_result_of_each_task(
        self, project: Project, sink: Sink
    ) -> None:
        """A death between the publication and its removal from the outbox repeats raw records."""
        tasks, kills = 600, 5
        project.environ["AGENTPIPE_LEASE_S"] = "1"
        project.collection(number=8, max_queue_size=tasks, max_crashes=kills)
        fleet = project.work("--processes", "2").ready(2)
        project.send(*["echo hi"] * tasks)
        for kill in range(kills):
            goal = (kill + 1) * tasks // (kills + 2)
            wait_until(partial(_has_delivered, project, goal), 60, f"{goal} are delivered")
            os.kill(wait_until(partial(_living, fleet), 60, "a worker"), signal.SIGKILL)
        project.until(waiting=0, running=0, outbox=0)
        assert fleet.stop() == 0
        assert len(project.by_id()) == tasks
        with Stream(sink.follow("raw", "beginning"), timeout_s=5) as stream:
            assert len(list(stream)) == tasks


def _has_delivered(project: Project, goal: int) -> bool:
    return int(project.stats()["delivered"]) >= goal


def _living(fleet: Fleet) -> int:
    """The pid of a live worker; dead ones stay listed until their lease ends."""
    return next((pid for pid in fleet.pids if Path(f"/proc/{pid}").exists()), 0)


# Groups.


@pytest.mark.long
def test_a_busy_reader_keeps_its_place_and_another_may_come_meanwhile(
    kafka_server: KafkaServer, topic: str
) -> None:
    """A reader that does not poll for longer than a session, as in a training step, stays."""
    with_short_session = f"{kafka_server.url}/{topic}?partitions=2&session_s=6"
    sink = open_sink(Settings(sink=with_short_session))
    group = f"group-{topic}"
    busy = sink.follow(group, "beginning")
    sink.publish([record(f"t-{n}") for n in range(40)])
    mine = read(busy, 1, limit=1)
    idle_since = time.monotonic()
    other = sink.follow(group, "beginning")
    theirs: list[Record] = []

    def has_shared() -> bool:
        polled = other.poll(100, 0.2)
        theirs.extend(polled)
        if polled:
            other.commit(polled[-1])
        return bool(theirs) and time.monotonic() - idle_since > 8

    wait_until(has_shared, 60, "the other has its share")
    busy.commit(mine[-1])
    rest = read(busy, 40 - len(theirs) - 1, limit=100)
    ids = [each.task_id for each in (*mine, *theirs, *rest)]
    assert len(set(ids)) == 40
    assert len(ids) <= 41  # One was in hand when its partition moved.
    for reader in (busy, other):
        reader.close()
    sink.close()


def read(reader: Reader, number: int, limit: int) -> list[Record]:
    found: list[Record] = []

    def enough() -> bool:
        found.extend(reader.poll(limit, 0.2))
        return len(found) >= number

    wait_until(enough, 60, f"{number} records")
    return found


@pytest.mark.long
class TestBehindALogin:
    """A listener with TLS and password authentication."""

    @pytest.fixture
    def guarded(self, own_server: OwnServer, tmp_path: Path) -> str:
        certificate, key = self_signed(tmp_path)
        both = tmp_path / "both.pem"
        both.write_bytes(key.read_bytes() + certificate.read_bytes())
        plain, login, controller = free_port(), free_port(), free_port()
        users = "org.apache.kafka.common.security.plain.PlainLoginModule required "
        settings = {
            "listeners": f"PLAINTEXT://{HOST}:{plain},LOGIN://{HOST}:{login}"
            f",CONTROLLER://{HOST}:{controller}",
            "advertised.listeners": f"PLAINTEXT://{HOST}:{plain},LOGIN://{HOST}:{login}",
            "controller.quorum.voters": f"1@{HOST}:{controller}",
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,LOGIN:SASL_SSL"
            ",CONTROLLER:PLAINTEXT",
            "sasl.enabled.mechanisms": "PLAIN",
            "listener.name.login.plain.sasl.jaas.config": f'{users} user_ann="hunter 22";',
            "listener.name.login.ssl.keystore.type": "PEM",
            "listener.name.login.ssl.keystore.location": str(both),
        }
        own_server(KafkaServer, port=plain, settings=settings)
        return f"{HOST}:{login}/topic?cafile={certificate}"

    @pytest.mark.filterwarnings(  # The client never closes a refused login's sockets.
        "ignore::pytest.PytestUnraisableExceptionWarning"
    )
    def test_the_right_password_is_let_in_and_another_is_told(self, guarded: str) -> None:
        sink = open_sink(Settings(sink=f"kafka://ann:hunter%2022@{guarded}"))
        sink.publish([record("a")])
        assert [each.task_id for each in read_all(sink)] == ["a"]
        group = sink.follow("trainer", "beginning")
        assert len(read(group, 1, limit=1)) == 1
        group.close()
        sink.close()
        with pytest.raises(Unreachable, match="user and password") as caught:
            open_sink(Settings(sink=f"kafka://ann:wrong77@{guarded}"))
        assert "wrong77" not in str(caught.value)
        del caught
        gc.collect()


@pytest.mark.long
class TestOnItsOwnServer:
    @pytest.fixture
    def server(self, own_server: OwnServer) -> KafkaServer:
        return own_server(KafkaServer, settings={"group.min.session.timeout.ms": "500"})

    @pytest.fixture
    def broker_url(self, tmp_path: Path) -> str:
        return f"sqlite:///{tmp_path}/store/broker.db"

    @pytest.fixture
    def sink_url(self, server: KafkaServer, topic: str) -> str:
        return f"{server.url}/{topic}?session_s=1&partitions=2"

    def test_a_broker_that_is_killed_under_load_costs_nothing(
        self, project: Project, server: KafkaServer
    ) -> None:
        tasks = 300
        project.environ["AGENTPIPE_OUTBOX_HIGH_WATER"] = "1000"
        project.collection(number=4, max_queue_size=tasks)
        fleet = project.work("--processes", "2").ready(2)
        for outage in range(2):
            server.kill()
            project.ok(
                "send",
                "toys",
                "--file",
                project.tasks(*["echo hi"] * tasks, name=f"{outage}.jsonl"),
            )
            project.until(waiting=0, running=0, outbox=tasks)
            server.start()
            project.until(timeout_s=90, outbox=0)
        assert fleet.stop() == 0
        assert len(project.by_id()) == 2 * tasks
        runs = Counter(entry["task_id"] for entry in project.journal("started"))
        assert len(runs) == 2 * tasks
        assert set(runs.values()) == {1}
        assert "results wait in the outbox" in fleet.log
        assert "the sink takes results again" in fleet.log

"""Figures of results in Kafka, with tasks in Redis, beside the peer on the same two servers."""

from __future__ import annotations

import os
import statistics
import tempfile
import threading
import time
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.sinks.stream import Stream
from bench.figures import EVALUATOR, per_s, sender, show, show_latencies, show_rounds
from bench.fleet import PATIENCE_S, fleet, memory_mb
from bench.peer import PYTHON, peer
from bench.recording import attempt
from brokers.ports import free_port
from brokers.server_kafka import KafkaServer
from brokers.server_redis import RedisServer

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.fleet import Fleet

ROUNDS = 3
RUNS, LATENCIES, RECORDS, MANY = 20_000, 200, 50_000, 1_000
MARK = 10_000
SELDOM = {"fetch_min_bytes": 16 * 1024 * 1024, "fetch_max_wait_ms": 500}
PEER_RUNS, PEER_LATENCIES = 150, 40


def measure() -> None:
    with (
        tempfile.TemporaryDirectory() as folder,
        RedisServer(Path(folder) / "redis", environ=os.environ) as redis,
        KafkaServer(Path(folder) / "kafka", environ=os.environ) as kafka,
    ):
        beside: dict[str, Any] = {}
        if PYTHON.exists():
            attempt("the peer", lambda: beside.update(peer_figures(redis.url, kafka.url)))
        attempt("8 instant agents", delivering, redis.url, kafka.url, beside)
        attempt("64 instant agents", delivering_beside_a_producer, redis.url, kafka.url)
        attempt("from send to readable, idle", readable, redis.url, kafka.url)
        attempt("reading", reading, kafka.url)
        attempt(f"{MANY:,} agents in one process", many_agents, redis.url, kafka.url)
        attempt("a worker while Kafka is away", away, redis.url)
        if beside:
            show("    the peer's: 8 agents", f"{beside['per_s']:.1f}/s")
            show_latencies("    from send to readable, idle", beside["latencies_ms"])
            show("    memory of an agent", f"{beside['memory_mb']:.0f} MB", "PSS")


def delivering(redis_url: str, kafka_url: str, beside: dict[str, Any]) -> None:
    speeds = [delivered_per_s(redis_url, kafka_url) for _ in range(ROUNDS)]
    speed = statistics.median(speeds)
    spread = f"{min(speeds):,.0f} to {max(speeds):,.0f}"
    ratio = f"; {speed / beside['per_s']:.0f} x the peer's" if beside else ""
    show("8 instant agents, two processes, 3 KB results", f"{speed:,.0f}/s", spread + ratio)


def delivering_beside_a_producer(redis_url: str, kafka_url: str) -> None:
    """Alternate with a producer that has its records ready and does nothing else."""
    speeds, bare = [], []
    for _ in range(ROUNDS):
        speeds.append(delivered_per_s(redis_url, kafka_url, 64))
        bare.append(produced_per_s(kafka_url))
    label = "64 instant agents, two processes, 3 KB results"
    show_rounds(label, speeds, bare, "one bare producer's, acks=all,")


def produced_per_s(kafka_url: str) -> float:
    """Results like the agents', from the client's own producer, flushed every 500."""
    from kafka import KafkaProducer

    server, _, topic = new_topic(kafka_url).removeprefix("kafka://").partition("/")
    open_sink(Settings(sink=f"kafka://{server}/{topic}")).close()  # Creates the topic.
    producer = KafkaProducer(bootstrap_servers=server, acks="all")
    records = [_wordy(number) for number in range(RUNS)]

    def produce() -> None:
        for first in range(0, RUNS, 500):
            part = records[first : first + 500]
            futures = [producer.send(topic, it.payload, key=it.task_id.encode()) for it in part]
            producer.flush()
            for future in futures:
                future.get()

    speed = per_s(RUNS, produce)
    producer.close()
    return speed


def _wordy(number: int) -> Record:
    """A record like those of the agents' runs, in size."""
    result = Result(task_id=f"task-{number:032}", result="42 " * 600, trace=[{"text": "x" * 600}])
    return Record(result.task_id, orjson.dumps(result.to_dict()))


def readable(redis_url: str, kafka_url: str) -> None:
    show_latencies("from send to readable, idle", latencies_ms(redis_url, kafka_url))


def new_topic(kafka_url: str) -> str:
    return f"{kafka_url}/bench-{uuid.uuid4().hex[:8]}"


def fresh(redis_url: str) -> str:
    return f"{redis_url}?prefix={uuid.uuid4().hex[:8]}"


def delivered_per_s(redis_url: str, kafka_url: str, agents: int = 8) -> float:
    """Speed between the first record of the topic and the last, by Kafka's clock.

    The counting consumer polls twice a second, to take little from the processes under test.
    """
    with fleet(agents, "Wordy", fresh(redis_url)) as scratch:
        scratch.environ["AGENTPIPE_SINK"] = new_topic(kafka_url)
        scratch.send([{"question": "q", "evaluators": [EVALUATOR]}] * RUNS)
        with scratch.working("--processes", "2"):
            moments = sorted(at for at, _ in consumed(scratch, RUNS, **SELDOM))
    return len(moments) / (moments[-1] - moments[0])


def consumed(scratch: Fleet, number: int, **options: int) -> list[tuple[float, float]]:
    """For each record of the topic: when it was published, and when it was read here."""
    return _consumed(scratch.environ["AGENTPIPE_SINK"], number, threading.Event(), **options)


def _consumed(
    url: str, number: int, ready: threading.Event, **options: int
) -> list[tuple[float, float]]:
    from kafka import KafkaConsumer

    server, _, topic = url.partition("?")[0].removeprefix("kafka://").partition("/")
    open_sink(Settings(sink=url)).close()  # Creates the topic.
    consumer = KafkaConsumer(
        topic, bootstrap_servers=server, auto_offset_reset="earliest", **options
    )
    found: list[tuple[float, float]] = []
    deadline = time.monotonic() + PATIENCE_S
    while len(found) < number:
        for messages in consumer.poll(100).values():
            found += [(message.timestamp / 1000, time.time()) for message in messages]
        ready.set()
        if time.monotonic() > deadline:
            raise TimeoutError(f"{len(found)} of {number} records")
    consumer.close()
    return found


def latencies_ms(redis_url: str, kafka_url: str) -> list[float]:
    """Times from sending a task to reading its record in a consumer, on idle workers."""
    with fleet(8, "Wordy", fresh(redis_url)) as scratch:
        url = scratch.environ["AGENTPIPE_SINK"] = new_topic(kafka_url)
        with scratch.working("--processes", "2"), _reading(url, LATENCIES) as found:
            dispatcher, sent = sender(scratch), []
            for _ in range(LATENCIES):
                time.sleep(0.05)
                sent.append(time.time())
                dispatcher.send("bench", "q")
            dispatcher.close()
    return sorted((read - at) * 1000 for at, (_, read) in zip(sent, found, strict=True))


class _reading:  # noqa: N801 - used like a function
    """Reads a topic in a thread; the list is complete when the block has ended."""

    def __init__(self, url: str, number: int) -> None:
        self._found: list[tuple[float, float]] = []
        self._ready = threading.Event()
        self._thread = threading.Thread(
            target=lambda: self._found.extend(_consumed(url, number, self._ready))
        )

    def __enter__(self) -> list[tuple[float, float]]:
        self._thread.start()
        self._ready.wait(PATIENCE_S)
        return self._found

    def __exit__(self, *_: object) -> None:
        self._thread.join()


def reading(kafka_url: str) -> None:
    """Read records of 3 KB: with a group's reader that commits each poll, and with Streams."""
    sink = open_sink(Settings(sink=new_topic(kafka_url)))
    for first in range(0, RECORDS, 500):
        sink.publish([_record(number) for number in range(first, first + 500)])
    show("a group's reader, 3 KB records", f"{per_s(RECORDS, lambda: _read(sink)):,.0f}/s")
    for label, group in (
        ("a Stream, decoded and each task once", None),
        ("  in a group", "bench-2"),
    ):
        with Stream(sink.follow(group, "beginning"), timeout_s=0) as stream:
            show(label, f"{per_s(RECORDS, lambda: list(stream)):,.0f}/s")
    sink.close()


def _record(number: int) -> Record:
    noise = os.urandom(600).hex()
    result = Result(task_id=f"t-{number}", result="42 " * 500, trace=[{"text": noise}])
    return Record(result.task_id, orjson.dumps(result.to_dict()))


def _read(sink: Any) -> None:
    reader, left = sink.follow("bench", "beginning"), RECORDS
    while left:
        if records := reader.poll(500, 1):
            reader.commit(records[-1])
            left -= len(records)
    reader.close()


def many_agents(redis_url: str, kafka_url: str) -> None:
    with fleet(MANY, "Wordy", fresh(redis_url)) as scratch:
        scratch.environ["AGENTPIPE_SINK"] = new_topic(kafka_url)
        with scratch.working("--processes", "1") as pid:
            scratch.send([{"question": "q"}] * 5 * MANY)
            consumed(scratch, 5 * MANY)
            show(f"{MANY:,} agents in one process", f"{memory_mb(pid):.0f} MB")


def away(redis_url: str) -> None:
    """Run a worker whose sink is down, up to the limit of the outbox and beyond."""
    with fleet(8, "Wordy", fresh(redis_url), 16) as scratch:
        scratch.environ["AGENTPIPE_SINK"] = f"kafka://127.0.0.1:{free_port()}/unreachable"
        with scratch.working("--processes", "1") as pid:
            before = memory_mb(pid)
            scratch.send([{"question": "q"}] * 2 * MARK)
            while scratch.status()["outbox"] < MARK:
                time.sleep(0.2)
            time.sleep(5)
            outbox = scratch.status()["outbox"]
            beside = f"{outbox:,} results wait, {before:.0f} MB before"
            show("a worker while Kafka is away", f"{memory_mb(pid):.0f} MB", beside)


def peer_figures(redis_url: str, kafka_url: str) -> dict[str, Any]:
    url = new_topic(kafka_url)
    with peer(redis_url, kafka_url, url.rpartition("/")[2]) as rival, rival.working():
        rival.send(16)  # Warms up the peer.
        _consumed(url, 16, threading.Event())
        rival.send(PEER_RUNS)
        moments = sorted(at for at, _ in _consumed(url, 16 + PEER_RUNS, threading.Event()))[16:]
        total = 16 + PEER_RUNS + PEER_LATENCIES
        rival.send(PEER_LATENCIES, 0.8)
        late = _sent_and_published(url, total)[-PEER_LATENCIES:]
        memory = rival.memory_mb()
    return {
        "per_s": len(moments) / (moments[-1] - moments[0]),
        "latencies_ms": sorted((published - sent) * 1000 for sent, published in late),
        "memory_mb": memory,
    }


def _sent_and_published(url: str, number: int) -> list[tuple[float, float]]:
    """The peer's records, sorted by send time, which it puts into their metadata."""
    return sorted(_peer_records(url, number))


def _peer_records(url: str, number: int) -> Iterator[tuple[float, float]]:
    from kafka import KafkaConsumer

    server, _, topic = url.partition("?")[0].removeprefix("kafka://").partition("/")
    consumer = KafkaConsumer(topic, bootstrap_servers=server, auto_offset_reset="earliest")
    for _, message in zip(range(number), consumer, strict=False):
        yield orjson.loads(message.value)["metadata"]["sent"], message.timestamp / 1000
    consumer.close()

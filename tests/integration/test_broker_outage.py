"""A broker that fails or loses all data: every process recovers, and no task is lost."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pika
import pytest
import redis

from agentpipe.brokers.rabbitmq.topology import Topology
from tests.support import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable, Iterator

    from brokers.server import Server
    from tests.integration.project import Project

# Longer than the timeout of any request.
OUTAGE_S = {"redis": 20.0, "rabbitmq": 8.0}
# The waiting sender has more tasks than can run during the server's shutdown, which takes seconds.
FED, FILED, SLOTS, ROOM = 1_000, 400, 4, 20


@pytest.mark.long
def test_while_the_server_is_away_senders_wait_or_are_told_and_workers_come_back(
    project: Project, server: Server
) -> None:
    project.collection("toys", number=4, max_queue_size=ROOM // 4)
    project.collection("fed", number=4, max_queue_size=FED)
    fleet = project.work("--processes", "2", "--slots", str(SLOTS // 2)).ready(2)
    fed = _with_a_batch_accepted(project)
    file = project.tasks(*["sleep 0.2"] * FILED)
    patient = project.start("send", "toys", "--file", file, "--on-full", "wait", "--json")
    wait_until(lambda: len(project.journal("started")) > FED + 20, 30, "one sends, others work")
    with _away(server):
        _assert_told(project, server, fed)
        assert patient.poll() is None
    project.until(delivered=FED + FILED, waiting=0, outbox=0)
    _, said = patient.communicate(timeout=30)
    assert (patient.returncode, fleet.stop()) == (0, 0)
    for text, who, number in ((said, "sending", 1), (fleet.log, "the worker", 2)):
        assert text.count(f"the broker does not answer, {who} waits for it") == number, text
        assert text.count("the broker answers again") == number
        assert "Traceback" not in text
    assert "replaced" not in fleet.log
    assert "the outbox" not in fleet.log  # The sink was not at fault.
    _assert_nothing_was_lost_or_ran_twice(project)


def _with_a_batch_accepted(project: Project) -> subprocess.Popen[str]:
    """A sender whose first batch has run; it waits for more tasks on stdin."""
    sender = project.start("send", "fed", "--file", "-")
    assert sender.stdin is not None
    sender.stdin.write('"echo hi"\n' * FED)
    sender.stdin.flush()
    project.until(delivered=FED)
    return sender


@contextmanager
def _away(server: Server) -> Iterator[None]:
    server.stop()
    ends = time.monotonic() + OUTAGE_S[server.kind]
    yield
    wait_until(lambda: time.monotonic() > ends, OUTAGE_S[server.kind] + 1, "it was long enough")
    server.start()


def _assert_told(project: Project, server: Server, fed: subprocess.Popen[str]) -> None:
    """Check the errors of an interrupted sender, which say how far it came, and of a new one."""
    out, err = fed.communicate('"echo late"\n', timeout=60)
    late = project.run("send", "toys", "echo late")
    assert (fed.returncode, out, late.code, late.out) == (4, "", 4, "")
    for text, accepted in ((err, FED), (late.err, 0)):
        assert len(text.splitlines()) == 2, text  # The first line names broker and sink.
        assert f"127.0.0.1:{server.port}" in text.splitlines()[1]
        assert accepted == 0 or f"{accepted} tasks before it were accepted" in text


def _assert_nothing_was_lost_or_ran_twice(project: Project) -> None:
    results = project.by_id()
    assert len(results) == FED + FILED
    assert {result["outcome"] for result in results.values()} == {"ok"}
    runs = Counter(entry["task_id"] for entry in project.journal("started"))
    assert runs.keys() == results.keys()
    # RabbitMQ can deliver running tasks again, and accept again what it did not confirm.
    again = 0 if project.settles_in_one_step else SLOTS + ROOM
    assert runs.total() <= len(results) + again


@pytest.mark.long
@pytest.mark.parametrize("server", ["redis"], indirect=True)
def test_workers_go_on_when_redis_is_flushed(project: Project, server: Server) -> None:
    def flush() -> None:
        with redis.Redis(port=server.port) as client:
            client.flushall()
            client.script_flush()

    _assert_workers_go_on(project, flush, "was emptied")


@pytest.mark.long
@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
@pytest.mark.parametrize(
    ("do", "said"),
    [("queue_purge", ""), ("queue_delete", "was deleted")],  # The server does not announce a purge.
)
def test_workers_go_on_when_queues_are_purged_or_deleted(
    project: Project, broker_url: str, do: str, said: str
) -> None:
    url, _, prefix = broker_url.partition("?prefix=")
    names = Topology(prefix)
    agents = [(names.admission(agent, 10), names.back(agent)) for agent in ("toys_0", "toys_1")]

    def forget() -> None:
        with pika.BlockingConnection(pika.URLParameters(url)) as connection:
            channel = connection.channel()
            for queue in (names.shared("registry"), names.shared("outbox"), *agents[0], *agents[1]):
                getattr(channel, do)(queue.name)

    _assert_workers_go_on(project, forget, said)


def _assert_workers_go_on(project: Project, forget: Callable[[], None], said: str) -> None:
    project.collection(number=2, max_queue_size=10)
    fleet = project.work("--processes", "2", "--slots", "1").ready(2)
    project.send(*["sleep 2"] * 2, *["echo hi"] * 8)
    project.until(running=2)
    forget()
    wait_until(lambda: said in fleet.log, 20, "a worker says so")
    new = {f"new-{number}" for number in range(10)}
    project.send(*[{"task_id": task_id, "question": "echo hi"} for task_id in new])
    wait_until(lambda: new <= project.streamed(), 30, "they serve the new ones")
    project.until(waiting=0, delayed=0, running=0, outbox=0)
    assert fleet.stop() == 0
    for word in ("replaced", "Traceback"):
        assert word not in fleet.log
    runs = Counter(entry["task_id"] for entry in project.journal("started"))
    assert set(runs.values()) == {1}

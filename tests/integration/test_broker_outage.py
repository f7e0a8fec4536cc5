"""A broker that goes away, or forgets everything: all go on by themselves, and nothing is lost."""

from __future__ import annotations

import time
from collections import Counter
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.support import wait_until

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator

    from brokers.server import Server
    from tests.integration.project import Project

# Longer than anybody's patience with one request.
OUTAGE_S = {"redis": 20.0, "rabbitmq": 8.0}
FED, FILED, SLOTS = 1_000, 100, 4


def test_while_the_server_is_away_senders_wait_or_are_told_and_workers_come_back(
    project: Project, server: Server
) -> None:
    project.collection("toys", number=4, max_queue_size=5)
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
    assert "the outbox" not in fleet.log  # It was not the sink.
    _assert_nothing_was_lost_or_ran_twice(project)


def _with_a_batch_accepted(project: Project) -> subprocess.Popen[str]:
    """A sender whose first batch has run; it waits for more on its stdin."""
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
    """Who was cut off while sending is told how far it came, who comes now that nobody is there."""
    out, err = fed.communicate('"echo late"\n', timeout=60)
    late = project.run("send", "toys", "echo late")
    assert (fed.returncode, out, late.code, late.out) == (4, "", 4, "")
    for text, accepted in ((err, FED), (late.err, 0)):
        assert len(text.splitlines()) == 2, text  # The first one says which broker and sink.
        assert f"127.0.0.1:{server.port}" in text.splitlines()[1]
        assert accepted == 0 or f"{accepted} tasks before it were accepted" in text


def _assert_nothing_was_lost_or_ran_twice(project: Project) -> None:
    results = project.by_id()
    assert len(results) == FED + FILED
    assert {result["outcome"] for result in results.values()} == {"ok"}
    runs = Counter(entry["task_id"] for entry in project.journal("started"))
    assert runs.keys() == results.keys()
    # RabbitMQ gives what was running to somebody again.
    again = 0 if project.settles_in_one_step else SLOTS
    assert runs.total() <= len(results) + again

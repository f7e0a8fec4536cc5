"""``agentpipe collect`` from real servers: each result is stored once, despite kills."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.archive import Archive
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks.base import Record
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path

    from agentpipe.sinks.base import Sink

PATIENCE_S = 120.0
KILLS = 20


@pytest.fixture(params=["kafka", "rabbitmq"])
def url(request: pytest.FixtureRequest, topic: str) -> str:
    server = request.getfixturevalue(f"{request.param}_server")
    if request.param == "kafka":
        return f"{server.url}/{topic}?partitions=4&session_s=6"
    return f"{server.url}?topic={topic}&stream=yes"


def records(numbers: Iterable[int]) -> list[Record]:
    results = (
        Result(task_id=f"v1/{each}", run="v1", result="x" * 800, submitted_at=f"{each}")
        for each in numbers
    )
    return [Record(each.task_id, each.encode(Redactor([]))) for each in results]


class Command:
    """``agentpipe collect``, run in a folder."""

    def __init__(self, folder: Path, url: str) -> None:
        self.folder, self._url = folder, url

    def start(self, *options: str) -> subprocess.Popen[bytes]:
        environ = os.environ | {"AGENTPIPE_SINK": self._url}
        arguments = ["collect", "--to", "kept.db", "--json", *options]
        return subprocess.Popen(
            [sys.executable, "-m", "agentpipe", *arguments],
            cwd=self.folder,
            env=environ,
            stdout=subprocess.PIPE,
        )

    def run(self, *options: str) -> dict[str, Any]:
        process = self.start(*options)
        out, _ = process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
        said: dict[str, Any] = json.loads(out)
        return said

    def kept(self) -> Counter[str]:
        path = self.folder / "kept.db"
        if not path.exists() or not path.stat().st_size:
            return Counter()
        with Archive.open(Settings(sink=f"sqlite:///{path}")) as archive:
            return Counter(each.task_id for each in archive.results(run="v1"))


@pytest.fixture
def command(tmp_path: Path, url: str) -> Command:
    return Command(tmp_path, url)


@pytest.mark.long
def test_a_stream_is_kept_once_and_resumed(command: Command, sink: Sink) -> None:
    sink.publish(records(range(300)))
    said = command.run()
    assert (said["collected"], said["repeated"], said["skipped"]) == (300, 0, 0)
    sink.publish(records(range(290, 310)))
    said = command.run()
    assert (said["collected"], said["repeated"]) == (10, 10)
    assert command.kept() == Counter(each.task_id for each in records(range(310)))


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 0)])
def test_a_signal_ends_it_with_a_summary(
    command: Command, sink: Sink, number: signal.Signals, code: int
) -> None:
    sink.publish(records(range(50)))
    process = command.start("--follow")
    wait_until(lambda: len(command.kept()) == 50, PATIENCE_S, "all are kept")
    process.send_signal(number)
    out, _ = process.communicate(timeout=PATIENCE_S)
    assert (process.returncode, json.loads(out)["collected"]) == (code, 50)


@pytest.mark.long
def test_a_kill_at_any_moment_loses_and_repeats_nothing(command: Command, sink: Sink) -> None:
    chance = random.Random(4711)
    count, published = 600, 0
    for _ in range(KILLS):
        sink.publish(records(range(published, published := published + count)))
        before = sum(command.kept().values())
        process = command.start("--follow")
        if chance.random() < 0.7:
            wait_until(
                lambda seen=before: sum(command.kept().values()) > seen,  # type: ignore[misc]
                PATIENCE_S,
                "something is kept",
            )
        time.sleep(chance.uniform(0, 0.3))  # At any moment: before, during or after a commit.
        process.kill()
        process.communicate(timeout=PATIENCE_S)
    command.run("--timeout", "10")
    assert command.kept() == Counter(each.task_id for each in records(range(published)))


def test_an_unreachable_server_is_exit_4(tmp_path: Path) -> None:
    process = Command(tmp_path, "kafka://127.0.0.1:1/results").start()
    process.communicate(timeout=PATIENCE_S)
    assert process.returncode == 4

"""`dramatiq agentpipe.actors my_module` in real processes, which are killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest

from agentpipe.config.collection import load
from agentpipe.sending.broker import sender_broker
from agentpipe.settings import Settings
from agentpipe.sinks.stream import Stream
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PATIENCE_S = 60.0
LEASE_S = 5.0  # Long: a lapsed lease of a starved worker counts a crash for each run.
PIPELINES, KILLS = 40, 2  # RabbitMQ counts a crash for each prefetched task.
FILES = {
    "collection.yaml": "kind: collection\nspec: {name: shouts, config: ./agent.yaml}\n",
    "agent.yaml": (
        "kind: agent\nspec: {name: shout, type: python, is_main: true,"
        " config: {class: 'shouting:Shout'}}\n"
    ),
    "shouting.py": (
        "class Shout:\n"
        "    async def execute(self, task, context):\n"
        "        return task.question.upper()\n"
    ),
    "my_module.py": """\
import time
import dramatiq
from dramatiq.middleware import Middleware

class Metrics(Middleware):
    def after_process_boot(self, broker):
        self.ready = True

    def before_process_message(self, broker, message):
        print("hook", self.ready, flush=True)

dramatiq.get_broker().add_middleware(Metrics())

@dramatiq.actor
def add(left, right):
    time.sleep(0.02)
    return left + right

@dramatiq.actor
async def save(number):
    return f"saved {number}"
""",
    "refused.py": """\
import dramatiq
from dramatiq.middleware import TimeLimit
dramatiq.get_broker().add_middleware(TimeLimit())
""",
}


class Workers:
    """Runs `dramatiq` in the test's folder."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        for name, content in FILES.items():
            (folder / name).write_text(content)
        self.folder, self.log = folder, folder / "log"
        self.environ = {
            **os.environ,
            "AGENTPIPE_BROKER": broker_url,
            "AGENTPIPE_SINK": f"sqlite:///{folder}/results.db",
            "AGENTPIPE_LEASE_S": str(LEASE_S),
            "AGENTPIPE_GRACE_S": "1",
            "AGENT_COLLECTION_CONFIG_FILE": str(folder / "collection.yaml"),
        }
        self.settings = Settings.from_env(self.environ)

    @contextmanager
    def run(self, *modules: str, threads: int = 3) -> Iterator[subprocess.Popen[bytes]]:
        """Start one master with one worker; both are killed at the end."""
        command = [sys.executable, "-m", "dramatiq", *modules]
        command += ["--processes", "1", "--threads", str(threads)]
        with self.log.open("ab") as log:
            master = subprocess.Popen(
                command,
                cwd=self.folder,
                env=self.environ,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        try:
            yield master
        finally:
            self.kill(master)

    @staticmethod
    def kill(master: subprocess.Popen[bytes]) -> None:
        """Kill the master and its worker if they still run."""
        if master.poll() is None:
            os.killpg(master.pid, signal.SIGKILL)
        master.wait()

    @contextmanager
    def sender(self) -> Iterator[tuple[Any, Any]]:
        """The module's actors, declared in this process, which only sends."""
        broker = sender_broker(load(self.folder / "collection.yaml"), self.settings)
        declare: Any = dramatiq.actor
        add = declare(lambda *_: None, broker=broker, actor_name="add")
        save = declare(lambda *_: None, broker=broker, actor_name="save")
        dramatiq.set_broker(broker)
        try:
            yield add, save
        finally:
            dramatiq.set_broker(None)  # type: ignore[arg-type]
            broker.close()

    def answers(self, number: int) -> list[Any]:
        """Wait for this many results, all of them ``ok``; return their answers."""
        found = []
        with Stream.open(self.settings, start="beginning", timeout_s=PATIENCE_S) as stream:
            for result in stream:
                assert result.outcome == "ok", result.error
                found.append(result.result)
                if len(found) == number:
                    break
        return found

    @property
    def said(self) -> str:
        """The output and log of all processes."""
        return self.log.read_text()


@pytest.fixture
def workers(tmp_path: Path, broker_url: str) -> Workers:
    return Workers(tmp_path, broker_url)


def test_hooks_and_threads_work_in_the_documented_order(workers: Workers) -> None:
    with workers.run("agentpipe.actors", "my_module"):
        with workers.sender() as (add, save):
            (add.message(1, 2) | save.message()).run()
        assert sorted(map(str, workers.answers(2))) == ["3", "saved 3"]
        assert workers.said.count("hook True") == 2
        assert "serves 2 queues with 3 slots" in workers.said


def test_the_other_order_is_refused_with_a_sentence(workers: Workers) -> None:
    with workers.run("my_module", "agentpipe.actors") as master:
        assert master.wait(PATIENCE_S) == 2
    assert "put agentpipe.actors first, as in `dramatiq agentpipe.actors my_mod" in workers.said
    assert "Traceback" not in workers.said


def test_middleware_that_raises_into_threads_is_refused_at_boot(workers: Workers) -> None:
    with workers.run("agentpipe.actors", "refused") as master:
        assert master.wait(PATIENCE_S) != 0
    place = f"{workers.folder / 'refused.py'}:3: "
    assert f"{place}the middleware TimeLimit cannot be added" in workers.said
    assert "time_limit of actors (milliseconds)" in workers.said
    assert "Traceback" not in workers.said


def test_a_wrong_option_of_an_actor_is_refused_at_boot_with_its_line(workers: Workers) -> None:
    source = "import dramatiq\n\n@dramatiq.actor(max_retries='often')\ndef add(): ...\n"
    (workers.folder / "wrong.py").write_text(source)
    with workers.run("agentpipe.actors", "wrong") as master:
        assert master.wait(PATIENCE_S) != 0
    assert f"{workers.folder / 'wrong.py'}:3: " in workers.said
    assert "max_retries" in workers.said
    assert "Traceback" not in workers.said


@pytest.mark.long
@pytest.mark.every_broker
def test_pipelines_under_kills_end_once_each(workers: Workers) -> None:
    with workers.sender() as (add, save):
        for number in range(PIPELINES):
            (add.message(number, 1) | add.message(1) | save.message()).run()
        store = add.broker.store
        for kill in range(1, KILLS + 1):
            with workers.run("agentpipe.actors", "my_module"):
                workers.answers(kill * 3 * PIPELINES // (KILLS + 1))
        with workers.run("agentpipe.actors", "my_module"):
            answers = workers.answers(3 * PIPELINES)
            saved = [answer for answer in answers if isinstance(answer, str)]
            assert sorted(saved) == sorted(f"saved {it + 2}" for it in range(PIPELINES))
            wait_until(lambda: store.stats().outbox == 0, PATIENCE_S, "the outbox is empty")
        accepted = store.stats().accepted
        assert accepted in (3 * PIPELINES, None)

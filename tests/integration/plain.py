"""A worker for plain Dramatiq actors inside the test, as in users' own tests."""

from __future__ import annotations

import os
import threading
import uuid
from typing import TYPE_CHECKING, Any

import dramatiq

from agentpipe.config.collection import load
from agentpipe.settings import Settings
from agentpipe.sinks.stream import Stream
from agentpipe.worker.broker import worker_broker
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from agentpipe.core.result import Result

PATIENCE_S = 30.0
AGENTS = """\
class Shout:
    async def execute(self, task, context):
        if task.question == "fail":
            raise ValueError("no, " + context.env["TOKEN"])
        if task.question == "tell":
            return "it is " + context.env["TOKEN"]
        if task.question == "down":
            raise ConnectionError("no service")
        return task.question.upper()
"""
COLLECTION = """\
kind: collection
spec:
  name: shouts
  config: ./agent.yaml
  context: [{env: {TOKEN: hush-hush-hush}}]
"""
AGENT = """\
kind: agent
spec: {name: shout, type: python, is_main: true, config: {class: "MODULE:Shout"}}
"""


class Plain:
    """A broker with actors, and its workers; it also has the agent ``shouts_0``."""

    def __init__(self, folder: Path, broker_url: str) -> None:
        module = f"shouting_{uuid.uuid4().hex[:8]}"
        for name, content in (
            (f"{module}.py", AGENTS),
            ("collection.yaml", COLLECTION),
            ("agent.yaml", AGENT.replace("MODULE", module)),
        ):
            (folder / name).write_text(content)
        self.settings = Settings(
            broker=broker_url, sink=f"sqlite:///{folder}/results.db", grace_s=1.0
        )
        collections = load(folder / "collection.yaml")
        self.broker = worker_broker(collections, self.settings, os.environ)
        dramatiq.set_broker(self.broker)
        self.agent: Any = self.broker.get_actor("shouts_0")
        self.workers: list[dramatiq.Worker] = []
        self.said: list[Any] = []
        self._lock = threading.Lock()

    def actor(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        """Declare an actor; its queue is named after it, so tests can wait for that queue."""

        def declare(function: Callable[..., Any]) -> Any:
            given: dict[str, Any] = {"queue_name": function.__name__, **options}
            return dramatiq.actor(broker=self.broker, **given)(function)

        return declare

    def say(self, what: Any) -> None:
        """Record what an actor did."""
        with self._lock:
            self.said.append(what)

    def start(self, **options: Any) -> dramatiq.Worker:
        """Start a worker."""
        worker = dramatiq.Worker(self.broker, **options)
        worker.start()
        self.workers.append(worker)
        return worker

    def heard(self, number: int) -> list[Any]:
        """Wait until ``number`` records exist; return all."""
        wait_until(lambda: len(self.said) >= number, PATIENCE_S, f"{number} of {self.said} said")
        return list(self.said)

    def results(self, number: int) -> dict[str, Result]:
        """Wait for results of ``number`` tasks; return them by task id."""
        with Stream.open(self.settings, start="beginning", timeout_s=PATIENCE_S) as stream:
            found = {}
            for result in stream:
                found[result.task_id] = result
                if len(found) == number:
                    break
        assert len(found) == number
        return found

    def result(self) -> Result:
        """Wait for the only result."""
        (result,) = self.results(1).values()
        return result

    def close(self) -> None:
        """Stop all workers."""
        for worker in self.workers:
            worker.stop()
        self.broker.close()
        dramatiq.set_broker(None)  # type: ignore[arg-type]

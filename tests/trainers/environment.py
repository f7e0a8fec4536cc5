"""A project whose collection prime-rl trains on, with its workers and a model server."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import threading
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from agentpipe import Settings
from tests.asking_twice import files
from tests.llm_stub import Reply, TokenIds, fail, hang, say

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.llm_stub import Request

MODEL, END = "tiny", 1
EVALUATORS = [{"func": "raw", "op": "=", "value": "yes"}]
COLLECTION = """
kind: policy
spec: {{name: main, model: "local:tiny", endpoints: ["{url}"]}}
---
kind: collection
spec:
  name: twice
  config: ./agent.yaml
  number: 4
  max_retries: {retries}
  breaker: 0
  policy: main
  record: {{tokens: require}}
"""
FILES = files("{task.question} {task.task_id}")


@dataclass
class Engine:
    """Samples randomly, and remembers the samples of each task.

    Attributes:
        held: Set when the question ``held`` was asked, which is not answered.
        turns: By task: the prompt and sampled ids of each turn.
        bodies: By task: the request's body.
    """

    held: threading.Event = field(default_factory=threading.Event)
    turns: dict[str, list[TokenIds]] = field(default_factory=dict)
    bodies: dict[str, dict[str, Any]] = field(default_factory=dict)
    on_request: Callable[[str], None] = lambda _: None
    random: random.Random = field(default_factory=lambda: random.Random(5))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Reply:
        question, task_id = request.question.split()
        self.on_request(task_id)
        if question == "fails":
            return fail(500)
        if question == "held":
            self.held.set()
            return hang()
        with self.lock:
            is_first = len(request.body["messages"]) == 1
            known = [] if is_first else self.turns[task_id]
            held = [] if is_first else [*known[0].prompt, *known[0].sampled]
            ids = TokenIds([*held, *self._some(3)], [*self._some(5), END])
            self.turns[task_id] = [*known, ids]
            self.bodies[task_id] = request.body
        return say("yes" if ids.sampled[0] % 2 else "no", ids=ids)

    def _some(self, number: int) -> list[int]:
        return [self.random.randrange(2, 64) for _ in range(number)]

    def row(self, task_id: str) -> tuple[list[int], list[bool], list[float], float]:
        """A task's ids, mask, log-probabilities and reward, as served."""
        one, two = self.turns[task_id]
        between = two.prompt[len(one.prompt) + len(one.sampled) :]
        parts = [(one.prompt, False), (one.sampled, True), (between, False), (two.sampled, True)]
        ids = [each for part, _ in parts for each in part]
        mask = [sampled for part, sampled in parts for _ in part]
        logprobs = [one.logprob(i) if on else 0.0 for i, on in zip(ids, mask, strict=True)]
        return ids, mask, logprobs, float(two.sampled[0] % 2)


@dataclass
class Place:
    """A project and its processes."""

    folder: Path
    engine: Engine
    url: str
    retries: int = 0
    processes: list[subprocess.Popen[str]] = field(default_factory=list)

    @property
    def settings(self) -> Settings:
        """Settings with its broker and sink."""
        names = (self.folder / "broker.db", self.folder / "results.db")
        return Settings(broker=f"sqlite:///{names[0]}", sink=f"sqlite:///{names[1]}")

    def write(self) -> None:
        """Write the project's files."""
        its = {**FILES, "collection.yaml": COLLECTION.format(url=self.url, retries=self.retries)}
        for name, content in its.items():
            (self.folder / name).write_text(content)

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start a command of the project, which logs to a file."""
        urls = ["--broker", self.settings.broker, "--sink", self.settings.sink]
        command = [sys.executable, "-m", "agentpipe", *args, "-c", "collection.yaml", *urls]
        environ = {**os.environ, "AGENTPIPE_LEASE_S": "5", "LOCAL_LLM_API_KEY": "sk-0123456789"}
        with (self.folder / f"{args[0]}.log").open("ab") as log:
            process = subprocess.Popen(
                command, cwd=self.folder, env=environ, stdout=subprocess.PIPE, stderr=log, text=True
            )
        self.processes.append(process)
        return process

    def work(self) -> subprocess.Popen[str]:
        """Start two workers."""
        return self.start("work", "--processes", "2")

    def serve(self, *args: str, port: int = 0) -> tuple[subprocess.Popen[str], str]:
        """Start an environment server; return it and its address."""
        server = self.start("serve-env", "--json", "--port", str(port), *args)
        assert server.stdout is not None
        line = server.stdout.readline()
        assert line, (self.folder / "serve-env.log").read_text()
        return server, str(json.loads(line)["address"])

    def stop(self) -> None:
        """Stop all processes."""
        for process in self.processes:
            process.send_signal(signal.SIGTERM)
        for process in self.processes:
            process.wait(60)
            assert process.stdout is not None
            process.stdout.close()

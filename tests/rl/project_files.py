"""A scratch project whose agents ask a real model, and its commands."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe import Dispatcher, GroupStream, Settings, Stream
from agentpipe.config.collection import load

if TYPE_CHECKING:
    from agentpipe import Result, RolloutGroup

ASKING = Path(__file__).with_name("asking.py")
# On a busy machine, an answer takes minutes.
LIMIT_S = 1_800


@dataclass(frozen=True, slots=True)
class RlProject:
    """A folder with collections and their agents; ``url`` is their model server."""

    folder: Path
    url: str

    def write(
        self, agents: dict[str, dict[str, Any]], *documents: dict[str, Any], **spec: Any
    ) -> None:
        """Write an agent and a collection with the same name for each of ``agents``.

        Args:
            agents: By name: ``type`` and ``config``; other fields go to its collection.
            documents: More documents for the file of collections.
            spec: Fields for all collections.
        """
        shutil.copy(ASKING, self.folder)
        collections = []
        for name, given in agents.items():
            agent = {"name": name, **{key: given[key] for key in ("type", "config")}}
            self._write(f"{name}.yaml", {"kind": "agent", "spec": agent})
            own = {"name": name, "config": f"./{name}.yaml", "number": 1, "time_limit": LIMIT_S}
            own |= {key: value for key, value in given.items() if key not in agent}
            collections.append({"kind": "collection", "spec": {**own, **spec}})
        self._write("collection.yaml", *documents, *collections)

    def _write(self, name: str, *documents: dict[str, Any]) -> None:
        (self.folder / name).write_text("\n---\n".join(map(json.dumps, documents)))

    def send(self, name: str, tasks: list[dict[str, Any]], samples: int) -> None:
        """Send groups of tasks; all must be accepted."""
        collections = load(self.folder / "collection.yaml")
        with Dispatcher.open(collections, self.settings, results=False) as dispatcher:
            sent = dispatcher.send_groups(name, tasks, samples)
        assert (sent.accepted, sent.refused) == (len(tasks) * samples, 0)

    @property
    def settings(self) -> Settings:
        urls = [f"sqlite:///{self.folder}/{name}.db" for name in ("broker", "results")]
        return Settings(broker=urls[0], sink=urls[1])

    def start(self, *command: str) -> subprocess.Popen[bytes]:
        """Start an agentpipe command in the background, with its output in ``NAME.log``."""
        urls = ["--broker", self.settings.broker, "--sink", self.settings.sink]
        whole = [sys.executable, "-m", "agentpipe", *command, "-c", "collection.yaml", *urls]
        key = {"OPENAI_API_KEY": "unused-0123456789", "LOCAL_LLM_API_KEY": "unused-0123456789"}
        asked = {"OPENAI_BASE_URL": f"{self.url}/v1", "LOCAL_LLM_BASE_URL": f"{self.url}/v1"}
        with (self.folder / f"{command[0]}.log").open("ab") as log:
            return subprocess.Popen(
                whole,
                cwd=self.folder,
                env={**os.environ, **key, **asked},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    def run(self, *command: str) -> None:
        """Run a command that must succeed."""
        code = self.start(*command).wait(2 * LIMIT_S)
        assert code == 0, (self.folder / f"{command[0]}.log").read_text()[-5_000:]

    def groups(self) -> list[RolloutGroup]:
        """All ended groups that this test has not read yet."""
        with GroupStream.open(
            self.settings, group="test", timeout_s=1, min_good=0, keep=lambda _: True
        ) as stream:
            return list(stream)

    def results(self) -> list[Result]:
        with Stream.open(self.settings, start="beginning", timeout_s=1) as stream:
            return list(stream)

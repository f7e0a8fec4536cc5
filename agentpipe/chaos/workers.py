"""Workers: the scratch collection, and the processes that serve it."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers import open_store
from agentpipe.chaos import agent
from agentpipe.connections.private_files import make_file
from agentpipe.errors import AgentpipeError, StoreError
from agentpipe.worker.fleet.child_environ import child_environ

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings

COLLECTION = "chaos"
AGENTS, PROCESSES, SLOTS = 4, 4, 3
LEASE_S, GRACE_S = 4.0, 2.0
START_S, LOOK_EVERY_S = 90.0, 0.1
# Time to settle and drain the outbox, besides the grace period.
END_S = 30.0


class TrialWorkers:
    """The workers of a trial; ``running`` starts and ends them.

    Attributes:
        collection_file: File of the scratch collection.
        journal: File in which its agents record their runs.
        log: Output of the processes.
    """

    def __init__(self, folder: Path, settings: Settings, *, tasks: int, pause_s: float) -> None:
        """Write the collection; ``settings`` are the scratch space's, for watching the workers."""
        self._folder, self._settings = folder, settings
        self.journal, self.log = folder / "journal.jsonl", folder / "work.log"
        self.collection_file = folder / "collection.yaml"
        make_file(self.journal)
        config = {
            "class": f"{agent.__name__}:NotingAgent",
            "journal": str(self.journal.absolute()),
            "pause_s": pause_s,
        }
        spec = {"name": COLLECTION, "type": "python", "config": config}
        self._write("agent.yaml", {"kind": "agent", "spec": spec})
        # No task must end because of the strikes alone, and the breaker must not pause the
        # collection.
        limits = {"max_queue_size": max(100, tasks), "max_crashes": 1_000, "breaker": 0}
        shape: dict[str, Any] = {
            "number": AGENTS,
            "concurrency": PROCESSES * SLOTS // AGENTS,
            **limits,
        }
        shape |= {"name": COLLECTION, "config": "agent.yaml"}
        self._write(self.collection_file.name, {"kind": "collection", "spec": shape})
        self.supervisor_pid = 0

    def _write(self, name: str, document: object) -> None:
        make_file(self._folder / name)
        (self._folder / name).write_bytes(orjson.dumps(document))  # JSON is YAML.

    @contextmanager
    def running(self, settings: Settings, environ: dict[str, str], *files: int) -> Iterator[None]:
        """Start the workers; all of them serve when the block begins.

        Args:
            settings: Where the workers find their broker and sink.
            environ: Environment of this process.
            files: Descriptors that the workers keep open, such as a lock's.
        """
        settings = replace(settings, collection_file=self.collection_file, slots=SLOTS)
        theirs = {
            **child_environ(settings, environ),
            "AGENTPIPE_LEASE_S": f"{LEASE_S:g}",
            "AGENTPIPE_GRACE_S": f"{GRACE_S:g}",
        }
        command = [sys.executable, "-m", "agentpipe", "work", "--processes", str(PROCESSES)]
        make_file(self.log)
        with self.log.open("wb") as log:
            process = subprocess.Popen(  # noqa: S603 - ours
                command,
                env=theirs,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                pass_fds=files,
                start_new_session=True,  # Only we handle Ctrl-C.
            )
        self.supervisor_pid = process.pid
        try:
            with closing(open_store(self._settings)) as store:
                self._await_start(store, process)
            yield
        finally:
            _end(process)

    def _await_start(self, store: Store, process: subprocess.Popen[bytes]) -> None:
        give_up_at = time.monotonic() + START_S
        while len(_pids(store)) < PROCESSES:
            if process.poll() is not None or time.monotonic() > give_up_at:
                raise StoreError(f"the workers do not start: {self._last_words()}")
            time.sleep(LOOK_EVERY_S)

    def _last_words(self) -> str:
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return lines[-1] if lines else "they say nothing"

    @contextmanager
    def watched(self) -> Iterator[Watch]:
        """Observe the workers over a direct connection, without the proxy."""
        with closing(open_store(self._settings)) as store:
            yield Watch(store)


class Watch:
    """Reads which workers serve."""

    def __init__(self, store: Store) -> None:
        self._store = store

    def pids(self) -> list[int]:
        """Return the workers' pids on this machine; empty if the broker does not answer now."""
        try:
            return _pids(self._store)
        except AgentpipeError:
            return []


def _pids(store: Store) -> list[int]:
    here = socket.gethostname()
    return [it.pid for it in store.stats().workers if it.host == here]


def _end(process: subprocess.Popen[bytes]) -> None:
    """End the workers gracefully; if the supervisor is killed, its workers end on their own."""
    process.send_signal(signal.SIGTERM)
    try:
        process.wait(GRACE_S + END_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()

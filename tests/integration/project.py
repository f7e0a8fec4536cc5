"""A scratch project, and the commands that users run in it."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

import yaml

from agentpipe.config.collection import load
from agentpipe.errors import Unreachable
from agentpipe.operations.stats import as_dict
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.stream import Stream
from tests.stores import open_any
from tests.support import processes_with, slowness, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.sinks.base import Reader, Sink
    from tests.integration.command_forks import CommandForks, Fork
    from tests.stores import AnyStore

    _Process = subprocess.Popen[bytes] | Fork

HERE = Path(__file__).parent
TIMEOUT_S = 60.0
STAGES = ("waiting", "delayed", "running", "outbox", "delivered")


@dataclass(frozen=True, slots=True)
class Done:
    """The exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The single JSON object on stdout."""
        return json.loads(self.out)

    @property
    def lines(self) -> list[Any]:
        """The JSON objects on stdout, one per line."""
        return [json.loads(line) for line in self.out.splitlines()]


class Fleet:
    """An ``agentpipe work`` process in the background."""

    def __init__(self, project: Project, process: _Process, log: Path) -> None:
        self._project, self.process, self._log = project, process, log

    @property
    def log(self) -> str:
        """The log of the supervisor and its workers."""
        return self._log.read_text(errors="replace")

    @property
    def pids(self) -> set[int]:
        """The pids of the workers that are registered now."""
        return {worker["pid"] for worker in self._project.stats()["workers"]}

    def ready(self, workers: int) -> Fleet:
        """Wait until this many workers are registered."""

        def are_there() -> bool:
            with suppress(Unreachable):  # The test can have stopped its server.
                return len(self.pids) == workers
            return False

        wait_until(are_there, TIMEOUT_S, f"{workers} workers serve")
        return self

    def signal(self, kind: signal.Signals) -> None:
        """Send a signal to the supervisor's process group, as a terminal does."""
        os.killpg(self.process.pid, kind)

    def freeze(self, worker: int) -> None:
        """Stop a worker, after its supervisor, which would kill it; not while it locks the store.

        With the lock of a file, it would keep the test from reading it.
        """
        os.kill(self.process.pid, signal.SIGSTOP)
        os.kill(worker, signal.SIGSTOP)
        while self._project.is_locked():
            os.kill(worker, signal.SIGCONT)
            wait_until(lambda: not self._project.is_locked(), TIMEOUT_S, "it unlocks the store")
            os.kill(worker, signal.SIGSTOP)

    def thaw(self, worker: int) -> None:
        """Continue a worker that ``freeze`` has stopped, and its supervisor."""
        for pid in (worker, self.process.pid):
            os.kill(pid, signal.SIGCONT)

    def end(self, timeout_s: float = TIMEOUT_S) -> int:
        """Wait for the supervisor to exit; return its exit code."""
        return self.process.wait(timeout_s * slowness())

    def stop(self) -> int:
        """Send SIGTERM and wait; return the exit code."""
        self.signal(signal.SIGTERM)
        return self.end()


class Project:
    """A folder with a collection, agents and tasks, and the environment for its commands.

    Attributes:
        forks: If set, they run the workers, and the commands that the test waits for.
    """

    forks: CommandForks | None = None

    def __init__(self, folder: Path, broker_url: str, sink_url: str) -> None:
        self.folder = folder
        self.marker = f"AGENTPIPE_TEST_MARKER={uuid.uuid4().hex}"
        self.environ = {
            "PATH": os.environ["PATH"],
            "HOME": str(folder),
            "AGENTPIPE_BROKER": broker_url,
            "AGENTPIPE_SINK": sink_url,
            "AGENT_COLLECTION_CONFIG_FILE": str(folder / "collection.yaml"),
            "AGENTPIPE_LEASE_S": "2",
            "AGENTPIPE_GRACE_S": "5",
            "AGENTPIPE_RETRY_DELAY_S": "0.1",
            **dict([self.marker.split("=")]),
        }
        if os.geteuid() != 0:  # Without root, tests could not find non-dumpable processes.
            self.environ["AGENTPIPE_DUMPABLE"] = "1"
        self.journal_file = folder / "journal.jsonl"
        # RabbitMQ stores the Result, then acknowledges the task: if a worker dies in between, the
        # task runs again, and readers of the stream drop its second Result.
        self.settles_in_one_step = not broker_url.startswith("amqp")
        self._store: AnyStore | None = None
        self._sink: Sink | None = None
        self._reader: Reader | None = None
        self._streamed: set[str] = set()
        self._fleets = 0
        self._started: list[subprocess.Popen[Any]] = []
        self._forked: list[Fork] = []
        shutil.copy(HERE / "toys.py", folder)
        self.write("agent.yaml", _agent("toys:Toy", self.journal_file))
        self.write("plain.yaml", _agent("toys:PlainToy", self.journal_file))
        if broker_url.startswith("sqlite:"):  # Commands that read create none.
            open_any(Settings(broker=broker_url)).close()

    def write(self, name: str, content: str | bytes) -> Path:
        """Write a file into the project."""
        path = self.folder / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    def agent(self, reference: str, source: str) -> None:
        """Set the class of the agents, ``module:Class``; ``source`` is the module's code."""
        self.write(f"{reference.partition(':')[0]}.py", source)
        self.write("agent.yaml", _agent(reference, self.journal_file))

    def collection(self, name: str = "toys", config: str = "./agent.yaml", **spec: Any) -> None:
        """Add a collection to the project's file."""
        document = {"kind": "collection", "spec": {"name": name, "config": config, **spec}}
        with (self.folder / "collection.yaml").open("a") as stream:
            yaml.safe_dump(document, stream, explicit_start=True, sort_keys=False)

    def tasks(self, *questions: str | dict[str, Any], name: str = "tasks.jsonl") -> str:
        """Write a task file; the default task id is the file's name and the line number."""
        stem = Path(name).stem
        tasks = [q if isinstance(q, dict) else {"question": q} for q in questions]
        lines = [json.dumps({"task_id": f"{stem}-{n}", **task}) for n, task in enumerate(tasks)]
        return str(self.write(name, "\n".join(lines) + "\n"))

    def run(
        self,
        *args: str,
        stdin: str | bytes = "",
        env: dict[str, str] | None = None,
        timeout_s: float = TIMEOUT_S,
        folder: Path | None = None,
    ) -> Done:
        """Run a command and wait for its end."""
        given = stdin.encode() if isinstance(stdin, str) else stdin
        environ = {**self.environ, **(env or {})}
        folder, timeout_s = folder or self.folder, timeout_s * slowness()
        if self.forks and self.forks.may_run(args, environ):
            code, out, err = self.forks.run(args, given, environ, folder, timeout_s)
            return Done(code, out.decode(), err.decode())
        ended = subprocess.run(
            self._command(*args),
            input=given,
            capture_output=True,
            env=environ,
            cwd=folder,
            timeout=timeout_s,
            check=False,
        )
        return Done(ended.returncode, ended.stdout.decode(), ended.stderr.decode())

    def ok(self, *args: str, **options: Any) -> Done:
        """Run a command that must succeed."""
        done = self.run(*args, **options)
        assert done.code == 0, (args, done)
        return done

    def start(self, *args: str) -> subprocess.Popen[str]:
        """Start a command in the background."""
        pipes = (subprocess.PIPE, subprocess.PIPE, subprocess.PIPE)
        return self._opened(args, self.environ, self.folder, pipes, text=True)

    def work(
        self,
        *args: str,
        command: tuple[str, ...] = ("work",),
        folder: Path | None = None,
        env: dict[str, str] | None = None,
    ) -> Fleet:
        """Start workers in the background."""
        self._fleets += 1
        log = self.folder / f"work-{self._fleets}.log"
        environ, folder = {**self.environ, **(env or {})}, folder or self.folder
        with log.open("wb") as stream, Path(os.devnull).open("rb") as nothing:
            process = self._begun((*command, *args), environ, folder, (nothing, stream, stream))
        return Fleet(self, process, log)

    def _begun(
        self,
        args: tuple[str, ...],
        environ: dict[str, str],
        folder: Path,
        streams: tuple[IO[bytes], IO[bytes], IO[bytes]],
    ) -> _Process:
        if self.forks and self.forks.may_run(args, environ):
            fork = self.forks.start(args, environ, folder, streams)
            self._forked.append(fork)
            return fork
        return self._opened(args, environ, folder, streams, text=False)

    def _opened(
        self,
        args: tuple[str, ...],
        environ: dict[str, str],
        folder: Path,
        streams: tuple[IO[bytes] | int, IO[bytes] | int, IO[bytes] | int],
        *,
        text: bool,
    ) -> subprocess.Popen[Any]:
        stdin, stdout, stderr = streams
        process = subprocess.Popen(
            self._command(*args),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            env=environ,
            cwd=folder,
            text=text,
            start_new_session=True,
        )
        self._started.append(process)
        return process

    def burst(self, *args: str, **options: Any) -> Done:
        """Run workers until no task is left."""
        return self.ok("work", "--burst", *args, **options)

    def send(self, *questions: str | dict[str, Any], to: str = "toys") -> list[str]:
        """Send tasks from this process and return their ids; all must be accepted."""
        lines = Path(self.tasks(*questions)).read_text().splitlines()
        settings = Settings.from_env(self.environ)
        collections = load(self.folder / "collection.yaml", settings.max_queue_size)
        with closing(Dispatcher.open(collections, settings)) as dispatcher:
            sent = dispatcher.send_many(to, map(json.loads, lines))
        assert (sent.accepted, sent.refused) == (len(questions), 0)
        return list(sent.task_ids)

    def tail(self, *args: str) -> list[dict[str, Any]]:
        """The output of ``tail``: the stream so far."""
        return self.ok("tail", "--from", "beginning", "--timeout", "0", "--json", *args).lines

    def results(self) -> list[dict[str, Any]]:
        """The stream so far, read in this process."""
        settings = Settings.from_env(self.environ)
        with Stream.open(settings, start="beginning", timeout_s=0) as stream:
            return [result.to_dict() for result in stream]

    def by_id(self) -> dict[str, dict[str, Any]]:
        """The results by task id; fails if a task has several."""
        results = self.results()
        by_id = {result["task_id"]: result for result in results}
        assert len(by_id) == len(results)
        return by_id

    def stats(self) -> dict[str, Any]:
        """The output of ``status --json``, read in this process; for one thread only.

        If the broker does not know how many results are delivered, they are counted in the stream.
        """
        if self._store is None:
            self._store = self.open_store()
        stats = as_dict(self._store.stats())
        if stats["delivered"] is None:
            stats["delivered"] = len(self.streamed())
        return stats

    def streamed(self) -> set[str]:
        """The ids of tasks with a Result in the stream; for one thread only."""
        with suppress(Unreachable):  # The test can have stopped its server.
            if self._sink is None:
                self._sink = open_sink(Settings.from_env(self.environ))
                self._reader = self._sink.follow(None, "beginning")
            while self._reader and (records := self._reader.poll(1_000, 0)):
                self._streamed.update(record.task_id for record in records)
        return self._streamed

    def is_locked(self) -> bool:
        """Whether another process locks the store, for longer than one waits."""
        try:
            self.open_store().close()
        except Unreachable:
            return True
        return False

    def open_store(self) -> AnyStore:
        """Open the project's store, for another thread."""
        return open_any(Settings.from_env(self.environ))

    def until(self, timeout_s: float = TIMEOUT_S, **wanted: int) -> dict[str, Any]:
        """Wait until ``stats`` shows these values; return the stats."""

        stats: dict[str, Any] = {}

        def reached() -> bool:
            nonlocal stats
            with suppress(Unreachable):  # The test can have stopped its server.
                stats = self.stats()
            return all(stats.get(name) == value for name, value in wanted.items())

        try:
            wait_until(reached, timeout_s, f"{wanted}")
        except AssertionError as error:
            raise AssertionError(f"{error}, but {stats}") from None
        return stats

    def journal(self, event: str = "") -> list[dict[str, Any]]:
        """The events that agents recorded, in order."""
        text = self.journal_file.read_text() if self.journal_file.exists() else ""
        whole = text[: text.rfind("\n") + 1]  # The last line may be incomplete.
        entries = [json.loads(line) for line in whole.splitlines()]
        return [entry for entry in entries if event in ("", entry["event"])]

    @contextmanager
    def ledger_watched(self) -> Iterator[list[dict[str, Any]]]:
        """Read the stats continuously; the counts must add up each time, if the broker has them."""
        looks: list[dict[str, Any]] = []
        stopping = threading.Event()

        def look() -> None:
            store = self.open_store()
            while not stopping.wait(0.01):
                with suppress(Unreachable):
                    looks.append(as_dict(store.stats()))
            store.close()

        watcher = threading.Thread(target=look)
        watcher.start()
        try:
            yield looks
        finally:
            stopping.set()
            watcher.join()
        known = [look for look in looks if None not in (look["accepted"], look["delivered"])]
        wrong = [look for look in known if look["accepted"] != sum(look[s] for s in STAGES)]
        assert looks
        assert not wrong, wrong[0]

    def processes(self) -> set[int]:
        """The project's running processes, found by a marker in their environment."""
        forked = {fork.pid for fork in self._forked if fork.poll() is None}
        return forked | processes_with(self.marker, "environ")

    def kill(self) -> None:
        """Kill all processes of this project."""
        while living := self.processes():
            for pid in living:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
        for process in self._started:
            process.wait()
            for stream in (process.stdin, process.stdout, process.stderr):
                if stream is not None:
                    stream.close()

    def show_logs(self) -> None:
        """Print the workers' logs: pytest shows them when a test fails."""
        for log in sorted(self.folder.glob("work-*.log")):
            print(f"{log.name}:\n{log.read_text(errors='replace')[-5_000:]}")  # noqa: T201 - for pytest

    def close(self) -> None:
        """Kill all processes and close all connections."""
        self.kill()
        for opened in (self._reader, self._sink, self._store):
            if opened is not None:
                opened.close()

    def _command(self, *args: str) -> list[str]:
        module = () if args[0] in ("-m", "-c") else ("-m", "agentpipe")
        return [sys.executable, *module, *args]


def _agent(reference: str, journal: Path) -> str:
    config = {"class": reference, "journal": str(journal)}
    spec = {"name": "toy", "type": "python", "config": config}
    return yaml.safe_dump({"kind": "agent", "spec": spec})

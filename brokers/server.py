"""A real server on this machine, with its own folder and ports."""

from __future__ import annotations

import json
import shutil
import signal
from abc import ABC, abstractmethod
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from brokers import docker
from brokers.errors import LaunchError
from brokers.install import NotInstalledError
from brokers.ports import HOST, free_port, is_free
from brokers.process import Command, Process, holds_within

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from brokers.docker import Container

HERE = Path(__file__).parent
_READY_S, _STOP_S, _KILLED_S = 120.0, 30.0, 10.0
_MARK = "server.json"
_LOG_LINES = 15


class Server(ABC):
    """One server: it starts, stops, dies and comes back on the same port with the same data.

    Methods can be called from any thread, but only one at a time. Unless ``detached``, it ends when
    this process does, however that ends.

    Args:
        folder: For its data, its log and everything else it writes; made at the first start. If a
            server already runs there, this object stands for it, with its ports.
        port: Its port on 127.0.0.1; by default a free one.
        environ: The contents of ``os.environ``.
        settings: Lines of its configuration file that replace or extend ours.
        detached: Keep it running when this process ends.
    """

    kind: ClassVar[str]
    default_port: ClassVar[int]

    def __init__(
        self,
        folder: Path,
        port: int | None = None,
        *,
        environ: Mapping[str, str],
        settings: Mapping[str, str] | None = None,
        detached: bool = False,
    ) -> None:
        self.folder = folder.resolve()
        self._environ, self._settings, self._detached = (
            dict(environ),
            dict(settings or {}),
            detached,
        )
        state = self._remembered()
        self._processes = [Process(pid, birth) for pid, birth in state.get("processes", [])]
        self._in_container = bool(state.get("container"))
        self._ports_now: dict[str, int] = state["ports"] if self.running else {}
        self.port = self._ports_now.get("port") or port or free_port()

    @property
    @abstractmethod
    def url(self) -> str:
        """The URL for agentpipe."""

    @abstractmethod
    def answers(self) -> bool:
        """Whether a server of this kind takes requests on the port.

        Raises:
            OSError: Nothing answers there, or something else.
        """

    @abstractmethod
    def _commands(self) -> Sequence[Command]:
        """Install it if needed and configure it; return the programs to start, the server last.

        Raises:
            NotInstalledError: It cannot run without a container.
        """

    @abstractmethod
    def _container(self) -> Container:
        """Configure it to run in a container."""

    @property
    def running(self) -> bool:
        """Whether its process lives."""
        return bool(self._processes) and self._processes[-1].alive

    @property
    def log(self) -> Path:
        """The file with its output."""
        return self.folder / "server.log"

    def start(self) -> Self:
        """Start it unless it runs; return itself once it accepts requests.

        Raises:
            LaunchError: It is not available, its port is taken, or it ended; with its last output.
        """
        if self.running:
            return self
        self._refuse_taken_ports()
        self._claim_folder()
        try:
            for command in self._prepare():
                self._spawn(command)
            self._await_answer()
        except BaseException:
            self.kill()
            raise
        return self

    def stop(self) -> None:
        """Shut it down; its port and data are kept."""
        if self.running:
            self._processes[-1].signal(signal.SIGTERM)
            self._processes[-1].ends_within(_STOP_S)
        self.kill()

    def kill(self) -> None:
        """Kill it, like a crash; its port and data are kept."""
        if self._in_container:
            docker.kill(self._container_name, self._environ)
        for process in reversed(self._processes):
            process.signal(signal.SIGKILL)
        for process in self._processes:
            if not process.ends_within(_KILLED_S):
                raise LaunchError(f"{self.kind}: process {process.pid} does not end")
        self._processes = []
        if (self.folder / _MARK).exists():
            self._remember()

    def drop(self) -> None:
        """End it and remove its folder.

        Raises:
            LaunchError: The folder is not a server's; nothing is removed.
        """
        if self.folder.exists() and not (self.folder / _MARK).exists():
            raise LaunchError(f"{self.folder} is not a server's folder: nothing is removed")
        self.kill()
        if self._in_container:
            docker.drop(self._container_name, self._environ)
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.drop()

    @property
    def _ports(self) -> Mapping[str, int]:
        """Its ports by name, for messages."""
        return {"port": self.port}

    def _claim_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.folder / _MARK).exists() and any(self.folder.iterdir()):
            raise LaunchError(f"{self.folder} has other files in it: choose an empty folder")
        self._processes = []
        self._remember()

    def _refuse_taken_ports(self) -> None:
        for name, port in self._ports.items():
            if not is_free(port):
                raise LaunchError(
                    f"{self.kind}: {name} {port} of {HOST} is taken by "
                    + (f"another one: use it ({self.url}), " if self._ready() else "something: ")
                    + "stop it, or choose another port"
                )

    def _prepare(self) -> Sequence[Command]:
        self._in_container = False
        try:
            return self._commands()
        except NotInstalledError as error:
            if not docker.answers(self._environ):
                words = "Or start Docker, or give agentpipe the URL of a server that you have."
                raise NotInstalledError(f"{error}\n{words}") from error
            self._in_container = True
            container = self._container()
            docker.pull(container.image, self._environ)
            return [container.command(self._container_name, self._environ)]

    @property
    def _container_name(self) -> str:
        return f"agentpipe-{self.kind}-{sha256(bytes(self.folder)).hexdigest()[:12]}"

    def _configure(self, base: Path, own: Mapping[str, str], sign: str) -> Path:
        """Our configuration with ``own`` lines and the caller's; later lines win."""
        lines = "".join(
            f"{name}{sign}{value}\n" for name, value in {**own, **self._settings}.items()
        )
        conf = self.folder / base.name
        conf.write_text(base.read_text() + lines)
        return conf

    def _spawn(self, command: Command) -> None:
        process = Process.start(command, self.folder, self.log, detached=self._detached)
        self._processes.append(process)
        self._remember()

    def _remembered(self) -> dict[str, Any]:
        try:
            state: dict[str, Any] = json.loads((self.folder / _MARK).read_text())
        except (OSError, ValueError):
            return {}
        if state["kind"] != self.kind:
            raise LaunchError(f"{self.folder} is a folder of {state['kind']}: choose another one")
        return state

    def _remember(self) -> None:
        state: dict[str, Any] = {
            "kind": self.kind,
            "ports": dict(self._ports),
            "container": self._in_container,
            "processes": [[process.pid, process.birth] for process in self._processes],
        }
        fresh = self.folder / f"{_MARK}.new"
        fresh.write_text(json.dumps(state))
        fresh.replace(self.folder / _MARK)

    def _await_answer(self) -> None:
        if not holds_within(lambda: self._has_ended() or self._ready(), _READY_S):
            raise LaunchError(f"{self.kind} does not answer after {_READY_S:g} s\n{self._tail()}")
        if self._has_ended():
            raise LaunchError(f"{self.kind} ended during its start:\n{self._tail()}")

    def _has_ended(self) -> bool:
        return not self.running

    def _ready(self) -> bool:
        with suppress(OSError):
            return self.answers()
        return False

    def _tail(self) -> str:
        lines = self.log.read_text(errors="replace").splitlines()[-_LOG_LINES:]
        return "\n".join(f"  {line}" for line in lines) + f"\n({self.log})"

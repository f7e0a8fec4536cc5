"""A parent for `host`: preloads, forks a child per agent, and talks to it over a socketpair."""

from __future__ import annotations

import contextlib
import importlib
import json
import os
import re
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "agentpipe" / "engines" / "mcpuniverse"))

# Imported as the real parent does: not as part of agentpipe.
host: Any = importlib.import_module("host")

if TYPE_CHECKING:
    from collections.abc import Callable

ALLOWED = ("PATH", "HOME", "LANG", "TMPDIR")


class Child:
    """A forked process that serves one agent, created as the real parent does.

    Attributes:
        log: The file with its stdout and stderr.
        spans: The spans of the last task.
    """

    def __init__(self, env: dict[str, str], before: Callable[[], None] = lambda: None) -> None:
        self._sock, theirs = socket.socketpair()
        self._folder = Path(tempfile.mkdtemp(prefix="host-"))
        self.log = self._folder / "log"
        self.env = env
        self.spans: list[dict[str, Any]] = []
        self.pid = os.fork()
        if self.pid == 0:
            self._serve(theirs, before)
        theirs.close()
        self._lines = self._sock.makefile("rb")

    def hang_up(self) -> None:
        with contextlib.suppress(OSError):
            self._sock.shutdown(socket.SHUT_RDWR)
        self._lines.close()
        self._sock.close()

    def wait(self, timeout_s: float) -> None:
        """Wait until it has exited by itself."""
        if self.pid == 0:
            return
        until = time.monotonic() + timeout_s
        while os.waitpid(self.pid, os.WNOHANG) == (0, 0):
            if time.monotonic() > until:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
                raise AssertionError(f"the child did not end: {self.log.read_text()}")
            time.sleep(0.01)
        self.pid = 0

    def open(
        self,
        config: str,
        servers: dict[str, Any] | None = None,
        public: list[str] | None = None,
    ) -> dict[str, Any]:
        opening = {
            "config": config,
            "context": {"env": self.env, "metadata": {}},
            "servers": servers,
            "templates": self._templates(public),
        }
        self.send({"open": opening})
        return self.receive()

    def _templates(self, public: list[str] | None) -> dict[str, Any]:
        """Variables that tasks can read; the worker's pattern is longer."""
        if public is not None:
            return {"readable": public, "credentials": None}
        pattern = "KEY|TOKEN"
        readable = [name for name in self.env if re.search(pattern, name) is None]
        return {"readable": readable, "credentials": pattern}

    def send(self, request: dict[str, Any]) -> None:
        self._sock.sendall(json.dumps(request).encode() + b"\n")

    def begin(self, **task: Any) -> None:
        self.spans = []
        self.send({"task": task})

    def receive(self, timeout_s: float = 60.0) -> dict[str, Any]:
        """The next reply; spans received before it are stored."""
        self._sock.settimeout(timeout_s)
        while True:
            try:
                line = self._lines.readline()
            except TimeoutError:
                raise AssertionError(f"no reply; log:\n{self.log.read_text()}") from None
            assert line, f"the child hung up; log:\n{self.log.read_text()}"
            reply: dict[str, Any] = json.loads(line)
            if "span" not in reply:
                return reply
            self.spans.append(reply["span"])

    def run(self, **task: Any) -> dict[str, Any]:
        """Run a task that is answered; return the answer."""
        self.begin(**task)
        reply = self.receive()
        assert "done" in reply, f"{reply}; log:\n{self.log.read_text()}"
        done: dict[str, Any] = reply["done"]
        return done

    def error(self, **task: Any) -> dict[str, Any]:
        """Run a task that fails; return the error."""
        self.begin(**task)
        return self.next_error()

    def next_error(self) -> dict[str, Any]:
        reply = self.receive()
        assert "error" in reply, f"{reply}; log:\n{self.log.read_text()}"
        error: dict[str, Any] = reply["error"]
        return error

    def _serve(self, sock: socket.socket, before: Callable[[], None]) -> None:
        code = 1
        try:
            self._sock.close()
            self._settle()
            before()
            host.serve(sock)
            code = 0
        except BaseException:  # noqa: BLE001 - no code of the parent may run in a child
            traceback.print_exc()
        finally:
            os._exit(code)

    def _settle(self) -> None:
        log = os.open(self.log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        null = os.open(os.devnull, os.O_RDONLY)
        for number, target in ((null, 0), (log, 1), (log, 2)):
            os.dup2(number, target)
        sys.stdin = open(0)  # noqa: SIM115
        sys.stdout = open(1, "w", buffering=1)  # noqa: SIM115
        sys.stderr = open(2, "w", buffering=1)  # noqa: SIM115
        os.chdir(self._folder)
        kept = {name: os.environ[name] for name in ALLOWED if name in os.environ}
        os.environ.clear()
        os.environ.update({**kept, **self.env})

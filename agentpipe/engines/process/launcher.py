"""Nursery: starts children by way of a warden, and hears of their ends."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from agentpipe.engines.process import reaper
from agentpipe.errors import InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What a child may know of the worker's environment unless its config says otherwise.
PASSED_ON = ("PATH", "HOME", "LANG")
# And what Python itself needs to find its packages.
FOR_PYTHON = (*PASSED_ON, "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")


class Child:
    """A child that has been started."""

    def __init__(self, nursery: Nursery, number: int) -> None:
        self._nursery, self._number = nursery, number
        self.started: Future[None] = Future()
        self.ended: Future[int] = Future()

    async def wait(self) -> int:
        """Its exit code, negative for a signal, once all it left behind is gone too.

        Raises:
            InfraError: The warden died, and the child with it.
        """
        return await asyncio.shield(asyncio.wrap_future(self.ended))

    def end(self) -> None:
        """Kill it and all below it; ``wait`` tells when that is done."""
        with suppress(OSError):
            self._nursery.send({"end": self._number})


class Nursery:
    """Children of one kind: commands, or forks of a Python that has a module ready.

    The warden is started with the first child, and started anew if it died.
    """

    def __init__(self, python: str = sys.executable, *module: str) -> None:
        self._command = [python, reaper.__file__]
        self._module = module
        self._env = FOR_PYTHON if python == sys.executable else PASSED_ON
        self._socket: socket.socket | None = None
        self._children: dict[int, Child] = {}
        self._count = 0
        self._lock = threading.Lock()

    async def start(
        self,
        argv: Sequence[str] | None,
        env: Mapping[str, str],
        files: Sequence[int],
        cwd: str | None = None,
    ) -> Child:
        """Start ``argv``, or a fork where that is None; it works in ``cwd`` or a scratch folder.

        The files become its 0, 1 and 2, or a fork's channel, 1 and 2; they are closed here.

        Raises:
            OSError: The program cannot be started.
            InfraError: The warden died.
        """
        request = {"argv": argv, "env": dict(env), "scratch": cwd is None, "cwd": cwd}
        try:
            child = self._ask(request, files)
        finally:
            for number in files:
                os.close(number)
        try:
            await asyncio.shield(asyncio.wrap_future(child.started))
        except asyncio.CancelledError:
            child.end()
            raise
        return child

    def send(self, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        """Send the warden a message; OSError if it is gone."""
        body = json.dumps(message).encode()
        data = reaper.LENGTH.pack(len(body)) + body
        with self._lock:
            if self._socket is None:
                raise BrokenPipeError
            sent = socket.send_fds(self._socket, [data], list(files)) if files else 0
            self._socket.sendall(data[sent:])

    def _ask(self, request: dict[str, Any], files: Sequence[int]) -> Child:
        with self._lock:
            if self._socket is None:
                self._socket = self._start_warden()
            self._count += 1
            child = self._children[self._count] = Child(self, self._count)
            number = self._count
        with suppress(OSError):  # Who listens to the warden learns it too, and tells the child.
            self.send({"start": number, **request}, files)
        return child

    def _start_warden(self) -> socket.socket:
        ours, its = socket.socketpair()
        with its:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [*self._command, str(its.fileno()), *self._module],
                pass_fds=[its.fileno()],
                stdin=subprocess.DEVNULL,
                env=passed_on(self._env),
            )
        listening = (ours, process)
        threading.Thread(target=self._listen, args=listening, name="warden", daemon=True).start()
        return ours

    def _listen(self, ours: socket.socket, process: subprocess.Popen[bytes]) -> None:
        with ours, ours.makefile("rb") as stream:
            with suppress(OSError):
                while head := stream.read(reaper.LENGTH.size):
                    (length,) = reaper.LENGTH.unpack(head)
                    self._hear(json.loads(stream.read(length)))
            with self._lock:
                self._socket = None
                orphans, self._children = self._children, {}
        process.wait()
        for child in orphans.values():
            _fail(child, f"the process that starts children ended with {process.returncode}")

    def _hear(self, message: dict[str, Any]) -> None:
        if "started" in message:
            self._children[message["started"]].started.set_result(None)
        elif "refused" in message:
            code = message["errno"]
            refused = self._children.pop(message["refused"])
            refused.started.set_exception(OSError(code, os.strerror(code)))
        else:
            self._children.pop(message["ended"]).ended.set_result(message["status"])


def _fail(child: Child, text: str) -> None:
    for future in (child.started, child.ended):
        if not future.done():
            future.set_exception(InfraError(text))


@cache
def nursery(python: str = sys.executable, *module: str) -> Nursery:
    """The process's nursery of this kind; its warden ends with the process.

    Args:
        python: The interpreter of the children that are forks.
        module: What they are forked for: its name, and the folder it lies in if it needs one.
    """
    return Nursery(python, *module)


def passed_on(names: Sequence[str]) -> dict[str, str]:
    """What of this process's environment has these names."""
    return {name: os.environ[name] for name in names if name in os.environ}

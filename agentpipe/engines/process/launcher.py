"""Launcher: starts children through a reaper, and learns when they end."""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import subprocess
import sys
import threading
from concurrent.futures import Future
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agentpipe.core.process_privacy import DUMPABLE, variables
from agentpipe.core.set_up import NO_PROGRAM
from agentpipe.core.shortage import EXHAUSTED
from agentpipe.engines.process import reaper
from agentpipe.errors import AgentFailed, InfraError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.core.account import Account

# Worker variables that a child gets unless its config says otherwise.
PASSED_ON = ("PATH", "HOME", "LANG")
# The same, plus the variables that Python needs to find its packages.
FOR_PYTHON = (*PASSED_ON, "PYTHONPATH", "VIRTUAL_ENV", "TMPDIR")


class Child:
    """A started child."""

    def __init__(self, launcher: Launcher, number: int) -> None:
        self._launcher, self._number = launcher, number
        self.started: Future[None] = Future()
        self.ended: Future[int] = Future()

    async def wait(self) -> int:
        """Wait for the end of it and all it started; return its exit code, negative for a signal.

        Raises:
            InfraError: The reaper died, and the child with it.
        """
        return await asyncio.shield(asyncio.wrap_future(self.ended))

    def end(self) -> None:
        """Kill it and its descendants; ``wait`` returns when they are gone."""
        with suppress(OSError):
            self._launcher.send({"end": self._number})


class Launcher:
    """Starts children of one kind: commands, or forks of a Python with a preloaded module.

    The reaper starts with the first child, and again after it has died.
    """

    def __init__(self, python: str = sys.executable, *module: str) -> None:
        self._command = [python, reaper.__file__]
        self._module = module
        self._env = FOR_PYTHON if python == sys.executable else PASSED_ON
        self._socket: socket.socket | None = None
        self._children: dict[int, Child] = {}
        self._count = 0
        self._has_started = False
        self._lock = threading.Lock()

    async def start(
        self,
        argv: Sequence[str] | None,
        env: Mapping[str, str],
        files: Sequence[int],
        cwd: str | None = None,
        account: Account | None = None,
    ) -> Child:
        """Start ``argv``, or a fork for None, in ``cwd`` or a scratch folder, as ``account``.

        ``files`` become the child's 0, 1 and 2, or a fork's channel, 1 and 2. They are closed here.

        Raises:
            OSError: The program cannot be started.
            InfraError: The reaper died.
        """
        request: dict[str, Any] = {"argv": argv, "scratch": cwd is None, "cwd": cwd}
        request |= {"env": dict(env), "user": account and account.ids}
        try:
            child = self._request(request, files)
        finally:
            for number in files:
                os.close(number)
        try:
            await asyncio.shield(asyncio.wrap_future(child.started))
        except asyncio.CancelledError:
            child.end()
            raise
        return child

    async def start_piped(
        self,
        argv: Sequence[str],
        env: Mapping[str, str],
        cwd: str | None = None,
        account: Account | None = None,
    ) -> tuple[Child, int, int, int]:
        """``start`` with pipes; return the child, and our ends of its stdin, stdout and stderr.

        The caller closes these ends; on an error they are already closed.
        """
        (stdin, ours_in), (ours_out, stdout), (ours_err, stderr) = _pipes(3)
        try:
            child = await self.start(argv, env, (stdin, stdout, stderr), cwd, account)
        except BaseException:
            for number in (ours_in, ours_out, ours_err):
                os.close(number)
            raise
        return child, ours_in, ours_out, ours_err

    def send(self, message: Mapping[str, Any], files: Sequence[int] = ()) -> None:
        """Send a message to the reaper.

        Raises:
            OSError: The reaper is gone.
        """
        body = json.dumps(message).encode()
        data = reaper.LENGTH.pack(len(body)) + body
        with self._lock:
            if self._socket is None:
                raise BrokenPipeError
            sent = socket.send_fds(self._socket, [data], list(files)) if files else 0
            self._socket.sendall(data[sent:])

    def _request(self, request: dict[str, Any], files: Sequence[int]) -> Child:
        with self._lock:
            if self._socket is None:
                self._socket = self._start_reaper()
            self._count += 1
            number = self._count
            child = self._children[number] = Child(self, number)
        with suppress(OSError):  # The listening thread notices it too, and fails the child.
            self.send({"start": number, **request}, files)
        return child

    def _start_reaper(self) -> socket.socket:
        ours, theirs = socket.socketpair()
        with theirs:
            process = subprocess.Popen(  # noqa: S603 - our own program
                [*self._command, str(theirs.fileno()), *self._module],
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                env=passed_on((*self._env, DUMPABLE)),
            )
        arguments = (ours, process)
        threading.Thread(target=self._listen, args=arguments, name="reaper", daemon=True).start()
        return ours

    def _listen(self, ours: socket.socket, process: subprocess.Popen[bytes]) -> None:
        with ours, ours.makefile("rb") as stream:
            with suppress(OSError):
                while head := stream.read(reaper.LENGTH.size):
                    (length,) = reaper.LENGTH.unpack(head)
                    self._receive(json.loads(stream.read(length)))
            with self._lock:
                self._socket = None
                orphans, self._children = self._children, {}
        failure = self._death(process.wait())
        for child in orphans.values():
            _fail(child, failure)

    def _death(self, code: int) -> InfraError:
        """The error for a dead reaper: permanent if it never started a child (a failed import)."""
        unable = code > 0 and not self._has_started
        return InfraError(f"the reaper died (exit code {code})", permanent=unable)

    def _receive(self, message: dict[str, Any]) -> None:
        if "started" in message:
            self._has_started = True
            self._children[message["started"]].started.set_result(None)
        elif "refused" in message:
            code = message["errno"]
            refused = self._children.pop(message["refused"])
            refused.started.set_exception(OSError(code, os.strerror(code)))
        else:
            self._children.pop(message["ended"]).ended.set_result(message["status"])


def _pipes(number: int) -> list[tuple[int, int]]:
    """Open all pipes or none: when file descriptors run out, leaked ones make it worse."""
    ends: list[int] = []
    try:
        for _ in range(number):
            ends += os.pipe()
    except OSError:
        for end in ends:
            os.close(end)
        raise
    return list(zip(ends[::2], ends[1::2], strict=True))


def start_failure(what: str, error: OSError) -> AgentFailed:
    """The error of a run whose child cannot be started."""
    if error.errno == errno.E2BIG:  # Only affects this task, whose question is an argument.
        return AgentFailed(f"{what}: its arguments are too long; read the task from stdin instead")
    return AgentFailed(
        f"{what} cannot be started: {error.strerror or error}",
        infra=True,
        permanent=error.errno in NO_PROGRAM,
        shortage=_NO_ROOM.get(error.errno or 0, ""),
    )


# fork fails with EAGAIN when no more processes are allowed.
_NO_ROOM = EXHAUSTED | {errno.EAGAIN: "processes"}


def _fail(child: Child, error: InfraError) -> None:
    for future in (child.started, child.ended):
        if not future.done():
            future.set_exception(error)


@cache
def shared_launcher(python: str = sys.executable, *module: str) -> Launcher:
    """This process's shared launcher of one kind; its reaper ends with the process.

    Args:
        python: The interpreter of the reaper and its forks.
        module: The module that forks run: its name, and its folder if needed.
    """
    return Launcher(python, *module)


def folder_of_worker(what: str) -> str:
    """The folder in which a child without its own folder starts.

    Raises:
        AgentFailed: The folder is gone, so ``what`` cannot be started.
    """
    try:
        return str(Path.cwd())
    except OSError as error:
        raise start_failure(f"the worker's folder is gone: {what}", error) from error


def passed_on(names: Sequence[str]) -> dict[str, str]:
    """The variables in ``names`` that this process's environment has."""
    known = variables()
    return {name: known[name] for name in names if name in known}

"""The reaper: a process beside each worker that starts its children and ends them with it.

A child of the worker itself would survive ``kill -9`` of the worker. So would the servers that the
child starts, often in their own sessions. The reaper lives slightly longer than the worker. On
Linux it is a subreaper: orphans below it become its own children, so it can end all of them. A
process that detaches itself and hides its run is ended when the next run ends.

This file is run by its path, by any Python that has the standard library. It therefore imports
nothing of agentpipe except the two files beside it, which follow the same rule. Arguments: the
number of a Unix stream socket, then optionally a module and its folder. The module is imported once
and its ``preload()`` is called; children can then be forks that call its ``serve(channel)``.

Each message is a JSON object after its length, four bytes in network order. Requests:

- ``{"start": number, "argv": [...] or null for a fork, "env": {...}, "scratch": bool, "cwd": path,
  "user": {"uid", "gid", "groups"} or null for the reaper's own}``, with three files: a command's
  0, 1 and 2, or a fork's channel, 1 and 2
- ``{"end": number}``

Replies:

- ``{"started": number}`` or ``{"refused": number, "errno": n}``
- ``{"ended": number, "status": code}`` once the whole run is gone: its processes and its scratch
  folder; the code is negative for a signal
"""

from __future__ import annotations

import errno
import gc
import importlib
import json
import os
import resource
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.engines.process.forking import Serve

if TYPE_CHECKING or __package__:
    from agentpipe.engines.process.forking import StartRequest, fork, prctl
    from agentpipe.engines.process.process_tree import (
        children_of,
        environment_of,
        kill_group,
        kill_tree,
    )
else:  # Run by path: drop this folder from ``sys.path``, so forks do not see it.
    from forking import StartRequest, fork, prctl
    from process_tree import children_of, environment_of, kill_group, kill_tree

    del sys.path[0], sys.modules["forking"], sys.modules["process_tree"]

LENGTH = struct.Struct("!I")
FILES = 3
# Each process of a run has the run's number in this variable, unless it hides it.
RUN_VARIABLE = "AGENTPIPE_RUN"
PARENT_CHECK_S = 1.0
PR_SET_DUMPABLE, PR_SET_CHILD_SUBREAPER = 4, 36


@dataclass
class ChildRun:
    """One child, until all of it is gone.

    Attributes:
        scratch: The folder to remove afterwards.
        status: Its exit code, once it has ended.
        sweeper: The process that removes a scratch folder that is not empty.
    """

    number: int
    pid: int
    scratch: str | None
    status: int | None = None
    sweeper: int | None = None


class Reaper:
    """Serves one worker until the worker's end of the socket closes."""

    def __init__(self, worker: socket.socket, serve: Serve | None) -> None:
        self._worker, self._serve = worker, serve
        self._parent = os.getppid()
        self._runs: dict[int, ChildRun] = {}
        self._inbox, self._files = b"", list[int]()
        self._wakeup, wakeup = os.pipe()
        for end in (self._wakeup, wakeup):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(wakeup, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def work(self) -> None:
        """Start and end children until the worker is gone; then end the rest."""
        try:
            while self._worker_lives():
                self._reap()
        finally:
            self._end_everything()

    def _worker_lives(self) -> bool:
        ready, _, _ = select.select([self._worker.fileno(), self._wakeup], [], [], PARENT_CHECK_S)
        if self._wakeup in ready:
            with suppress(BlockingIOError):
                os.read(self._wakeup, 4096)
        if self._worker.fileno() in ready and not self._receive():
            return False
        # A fork of the worker can keep its end of the socket open.
        return os.getppid() == self._parent

    def _receive(self) -> bool:
        try:
            data, files, _, _ = socket.recv_fds(self._worker, 65536, 64)
        except ConnectionError:
            return False
        for number in files:
            os.set_inheritable(number, False)
        self._inbox += data
        self._files += files
        for request in self._requests():
            self._handle(request)
        return bool(data)

    def _requests(self) -> Iterator[dict[str, Any]]:
        while len(self._inbox) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._inbox)
            if len(self._inbox) < LENGTH.size + length:
                return
            body = self._inbox[LENGTH.size : LENGTH.size + length]
            self._inbox = self._inbox[LENGTH.size + length :]
            yield json.loads(body)

    def _handle(self, request: dict[str, Any]) -> None:
        if "end" in request:
            run = self._runs.get(request["end"])
            if run is not None and run.status is None:
                kill_tree(run.pid)
            return
        files, self._files = self._files[:FILES], self._files[FILES:]
        try:
            self._start(request, files)
        except OSError as error:
            self._send({"refused": request["start"], "errno": error.errno or errno.EIO})
        finally:
            for number in files:
                os.close(number)

    def _start(self, request: dict[str, Any], files: list[int]) -> None:
        number, user = request["start"], request["user"]
        env = request["env"] | {RUN_VARIABLE: f"{os.getpid()}.{number}"}
        scratch = tempfile.mkdtemp(prefix="agentpipe-") if request["scratch"] else None
        cwd = scratch or request["cwd"]
        try:
            if scratch is not None and user is not None:
                os.chown(scratch, user["uid"], user["gid"])
            pid = fork(StartRequest(request["argv"], env, cwd, files, user), self._serve_in_fork)
        except OSError:
            if scratch is not None:
                Path(scratch).rmdir()
            raise
        self._runs[number] = ChildRun(number, pid, scratch)
        self._send({"started": number})

    def _serve_in_fork(self, channel: socket.socket) -> None:
        self._worker.close()
        assert self._serve is not None, "forks need a module argument"
        self._serve(channel)

    def _reap(self) -> None:
        """Collect ended children; a process group is killed before its pid can be reused."""
        with suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                kill_group(dead.si_pid)
                _, status = os.waitpid(dead.si_pid, 0)
                self._record_end(dead.si_pid, os.waitstatus_to_exitcode(status))

    def _record_end(self, pid: int, status: int) -> None:
        for run in list(self._runs.values()):
            if run.pid == pid and run.status is None:
                run.status = status
                self._end_strays()
                self._remove_scratch(run)
            elif run.sweeper == pid:
                self._conclude(run)

    def _remove_scratch(self, run: ChildRun) -> None:
        if run.scratch is None:
            self._conclude(run)
            return
        try:
            Path(run.scratch).rmdir()
        except OSError:  # It is not empty: removing it can take a while.
            self._sweep(run, run.scratch)
        else:
            self._conclude(run)

    def _sweep(self, run: ChildRun, scratch: str) -> None:
        try:
            run.sweeper = os.fork()
        except OSError:  # No process is available, so block here; other runs wait.
            remove_folder(scratch)
            self._conclude(run)
            return
        if run.sweeper == 0:
            remove_folder(scratch)
            os._exit(0)

    def _conclude(self, run: ChildRun) -> None:
        del self._runs[run.number]
        self._send({"ended": run.number, "status": run.status})

    def _end_strays(self) -> None:
        """Kill what a run left behind: the reaper's children that belong to no current run."""
        known = {run.pid for run in self._runs.values()}
        known |= {run.sweeper for run in self._runs.values() if run.sweeper is not None}
        marks = {
            f"{RUN_VARIABLE}={os.getpid()}.{run.number}".encode()
            for run in self._runs.values()
            if run.status is None
        }
        for pid in children_of(os.getpid()):
            if pid not in known and not marks & environment_of(pid):
                kill_tree(pid)

    def _send(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        with suppress(OSError):  # The worker is gone; the main loop will notice.
            self._worker.sendall(LENGTH.pack(len(body)) + body)

    def _end_everything(self) -> None:
        while children := children_of(os.getpid()):
            for pid in children:
                kill_tree(pid)
            with suppress(ChildProcessError):
                os.waitpid(-1, 0)
        for run in self._runs.values():
            kill_group(run.pid)
            if run.scratch is not None:
                remove_folder(run.scratch)


def keep_private() -> None:
    """Prevent the user's other processes and core dumps from reading this process's memory."""
    if os.environ.get("AGENTPIPE_DUMPABLE") != "1":
        prctl(PR_SET_DUMPABLE, 0)
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))


def remove_folder(path: str) -> None:
    """Remove a folder and its content, writable or not.

    Root does not change modes: it does not need to, and another user could put a link in place of a
    folder.
    """
    for folder, names, _ in os.walk(path) if os.geteuid() else ():
        for name in [".", *names]:
            with suppress(OSError):
                inner = os.path.join(folder, name)  # noqa: PTH118 - os.walk yields strings
                if not os.path.islink(inner):  # noqa: PTH114 - os.walk yields strings
                    os.chmod(inner, stat.S_IRWXU)  # noqa: PTH101 - os.walk yields strings
    shutil.rmtree(path, ignore_errors=True)


def _preloaded(name: str, folders: list[str]) -> Serve:
    sys.path[:0] = folders
    module = importlib.import_module(name)
    module.preload()
    gc.collect()
    gc.freeze()  # A garbage collection in a child would touch, and so copy, every page.
    serve: Serve = module.serve
    return serve


def main(arguments: list[str]) -> None:
    """Serve the worker at the other end of the socket."""
    keep_private()  # The context of each child passes through this process.
    os.setsid()  # Ctrl-C in a terminal must only reach the worker.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    worker = socket.socket(fileno=int(arguments[0]))
    worker.set_inheritable(False)
    serve = _preloaded(arguments[1], arguments[2:]) if arguments[1:] else None
    Reaper(worker, serve).work()


if __name__ == "__main__":
    main(sys.argv[1:])

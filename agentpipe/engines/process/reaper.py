"""The warden: a process beside a worker that starts its children and ends them with it.

A child that the worker itself started would outlive a ``kill -9`` of the worker, and so would
the servers that the child started, often in sessions of their own. The warden outlives the
worker by a moment, and on Linux whatever loses its parent below it becomes its own child: thus
it can end all of it. Who detaches itself and hides its run is ended with the next run that ends.

It runs in any Python that has the standard library, by its path; its argument is the number of
a Unix stream socket. With the name of a module, and perhaps the folder that it lies in, it
imports that once, calls its ``preload()``, and children may be forks that call its
``serve(channel)``.

Each message is a JSON object behind its length, four bytes in network order. It is asked
``{"start": number, "argv": [...] or null for a fork, "env": {...}, "scratch": bool, "cwd": path}``
with three files (a command's 0, 1 and 2; a fork's channel, 1 and 2), and ``{"end": number}``. It
tells ``{"started": number}`` or ``{"refused": number, "errno": n}``, and then
``{"ended": number, "status": code}``, negative for a signal, once all of the run is gone: its
processes, and the scratch folder that it worked in.
"""

from __future__ import annotations

import ctypes
import errno
import gc
import importlib
import json
import os
import select
import shutil
import signal
import socket
import stat
import struct
import sys
import tempfile
import traceback
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Serve = Callable[[socket.socket], None]

LENGTH = struct.Struct("!I")
FILES = 3
# Each process below a run carries its number, unless it hides it.
MARK = "AGENTPIPE_RUN"
PARENT_LOOK_S = 1.0
PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


@dataclass(frozen=True)
class Start:
    """How a child begins: a program, or a fork where ``argv`` is None."""

    argv: list[str] | None
    env: dict[str, str]
    cwd: str
    files: list[int]


@dataclass
class Run:
    """A child, and where it works."""

    number: int
    pid: int
    scratch: str | None
    status: int | None = None
    sweeper: int | None = field(default=None)


class Warden:
    """Serves one worker until its end of the socket closes."""

    def __init__(self, worker: socket.socket, serve: Serve | None) -> None:
        self._worker, self._serve = worker, serve
        self._parent = os.getppid()
        self._runs: dict[int, Run] = {}
        self._inbox, self._files = b"", list[int]()
        self._bell, bell = os.pipe()
        for end in (self._bell, bell):
            os.set_blocking(end, False)
        signal.set_wakeup_fd(bell, warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)

    def work(self) -> None:
        """Start and end children until the worker is gone; then end all that is left."""
        try:
            while self._worker_lives():
                self._reap()
        finally:
            self._end_everything()

    def _worker_lives(self) -> bool:
        ready, _, _ = select.select([self._worker.fileno(), self._bell], [], [], PARENT_LOOK_S)
        if self._bell in ready:
            with suppress(BlockingIOError):
                os.read(self._bell, 4096)
        if self._worker.fileno() in ready and not self._receive():
            return False
        # A fork of the worker may hold its end of the socket open.
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
            self._obey(request)
        return bool(data)

    def _requests(self) -> Iterator[dict[str, Any]]:
        while len(self._inbox) >= LENGTH.size:
            (length,) = LENGTH.unpack_from(self._inbox)
            if len(self._inbox) < LENGTH.size + length:
                return
            body = self._inbox[LENGTH.size : LENGTH.size + length]
            self._inbox = self._inbox[LENGTH.size + length :]
            yield json.loads(body)

    def _obey(self, request: dict[str, Any]) -> None:
        if "end" in request:
            run = self._runs.get(request["end"])
            if run is not None and run.status is None:
                kill_tree(run.pid)
            return
        files, self._files = self._files[:FILES], self._files[FILES:]
        try:
            self._start(request, files)
        except OSError as error:
            self._tell({"refused": request["start"], "errno": error.errno or errno.EIO})
        finally:
            for number in files:
                os.close(number)

    def _start(self, request: dict[str, Any], files: list[int]) -> None:
        number = request["start"]
        env = request["env"] | {MARK: f"{os.getpid()}.{number}"}
        scratch = tempfile.mkdtemp(prefix="agentpipe-") if request["scratch"] else None
        try:
            pid = self._fork(Start(request["argv"], env, scratch or request["cwd"], files))
        except OSError:
            if scratch is not None:
                Path(scratch).rmdir()
            raise
        self._runs[number] = Run(number, pid, scratch)
        self._tell({"started": number})

    def _fork(self, start: Start) -> int:
        """The new child's pid. OSError says why its program could not be started."""
        told, tell = os.pipe()
        warden, pid = os.getpid(), os.fork()
        if pid == 0:
            self._be_child(start, tell, warden)
        os.close(tell)
        with os.fdopen(told, "rb") as stream:
            word = stream.read()
        if word:
            os.waitpid(pid, 0)
            raise OSError(int(word), os.strerror(int(word)))
        return pid

    def _be_child(self, start: Start, tell: int, warden: int) -> NoReturn:
        code = 1
        try:
            _begin_anew(start.cwd, warden)
            if start.argv:
                _take_places(start.files)
                os.execvpe(start.argv[0], start.argv, start.env)  # noqa: S606 - no shell is wanted
            _take_places([os.open(os.devnull, os.O_RDONLY), *start.files[1:]])
            os.close(tell)
            self._worker.close()
            code = self._serve_as_fork(start.files[0], start.env)
        except OSError as error:
            with suppress(OSError):
                os.write(tell, str(error.errno or errno.EIO).encode())
        finally:
            os._exit(code)

    def _serve_as_fork(self, channel: int, env: dict[str, str]) -> int:
        os.environ.clear()
        os.environ.update(env)
        try:
            assert self._serve is not None, "no module was given to fork for"
            self._serve(socket.socket(fileno=channel))
        except BaseException:  # noqa: BLE001 - there is nobody above
            traceback.print_exc()
            sys.stderr.flush()
            return 1
        sys.stdout.flush()
        return 0

    def _reap(self) -> None:
        """Note the ends of children; a pid is not given up before its group has been ended."""
        with suppress(ChildProcessError):
            while dead := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                kill_group(dead.si_pid)
                _, status = os.waitpid(dead.si_pid, 0)
                self._note_end(dead.si_pid, os.waitstatus_to_exitcode(status))

    def _note_end(self, pid: int, status: int) -> None:
        for run in list(self._runs.values()):
            if run.pid == pid and run.status is None:
                run.status = status
                self._end_strays()
                self._remove_scratch(run)
            elif run.sweeper == pid:
                self._conclude(run)

    def _remove_scratch(self, run: Run) -> None:
        if run.scratch is None:
            self._conclude(run)
            return
        try:
            Path(run.scratch).rmdir()
        except OSError:  # It holds something: that may take a while.
            run.sweeper = os.fork()
            if run.sweeper == 0:
                remove_folder(run.scratch)
                os._exit(0)
        else:
            self._conclude(run)

    def _conclude(self, run: Run) -> None:
        del self._runs[run.number]
        self._tell({"ended": run.number, "status": run.status})

    def _end_strays(self) -> None:
        """End what a run left behind: our children by now, if they are not a living run's."""
        known = {run.pid for run in self._runs.values()}
        known |= {run.sweeper for run in self._runs.values() if run.sweeper is not None}
        marks = {
            f"{MARK}={os.getpid()}.{run.number}".encode()
            for run in self._runs.values()
            if run.status is None
        }
        for pid in children_of(os.getpid()):
            if pid not in known and not marks & environment_of(pid):
                kill_tree(pid)

    def _tell(self, message: dict[str, Any]) -> None:
        body = json.dumps(message).encode()
        with suppress(OSError):  # It is gone: the next look will tell.
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


# What a child does between its fork and its own life.


def _begin_anew(cwd: str, warden: int) -> None:
    os.setsid()
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != warden:  # It died before that took hold.
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)
    os.chdir(cwd)


def _take_places(files: list[int]) -> None:
    """Make the files 0, 1 and 2. They are above those, which the warden itself has open."""
    for place, number in enumerate(files):
        os.dup2(number, place, inheritable=True)


# Processes, by way of /proc where there is one.


def prctl(option: int, value: int) -> None:
    """Linux's ``prctl``; elsewhere nothing."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def children_of(pid: int) -> list[int]:
    """Its children's pids, of all its threads."""
    found: list[int] = []
    for file in Path(f"/proc/{pid}/task").glob("*/children"):
        with suppress(OSError):
            found += map(int, file.read_text().split())
    return found


def environment_of(pid: int) -> set[bytes]:
    """Its variables as it was started, ``NAME=value`` each; empty if it is gone."""
    try:
        return set(Path(f"/proc/{pid}/environ").read_bytes().split(b"\0"))
    except OSError:
        return set()


def kill_tree(pid: int) -> None:
    """Kill a process, its group, and all below it: first stopped, so that none slips away."""
    with suppress(OSError):
        os.kill(pid, signal.SIGSTOP)
    for child in children_of(pid):
        kill_tree(child)
    kill_group(pid)
    with suppress(OSError):
        os.kill(pid, signal.SIGKILL)


def kill_group(pid: int) -> None:
    """Kill the group that a process leads; none, if it leads none."""
    with suppress(OSError):
        os.killpg(pid, signal.SIGKILL)


def remove_folder(path: str) -> None:
    """Remove a folder with all that is in it, also what was made unwritable."""
    for folder, names, _ in os.walk(path):
        for name in [".", *names]:
            with suppress(OSError):
                inner = os.path.join(folder, name)  # noqa: PTH118 - os.walk's own texts
                if not os.path.islink(inner):  # noqa: PTH114
                    os.chmod(inner, stat.S_IRWXU)  # noqa: PTH101
    shutil.rmtree(path, ignore_errors=True)


def _preloaded(name: str, folders: list[str]) -> Serve:
    sys.path[:0] = folders
    module = importlib.import_module(name)
    module.preload()
    gc.collect()
    gc.freeze()  # Collections in the children would touch, and thus copy, every page.
    serve: Serve = module.serve
    return serve


def main(arguments: list[str]) -> None:
    """Be the warden."""
    os.setsid()  # Ctrl-C in a terminal is for the worker.
    prctl(PR_SET_CHILD_SUBREAPER, 1)
    worker = socket.socket(fileno=int(arguments[0]))
    worker.set_inheritable(False)
    serve = _preloaded(arguments[1], arguments[2:]) if arguments[1:] else None
    Warden(worker, serve).work()


if __name__ == "__main__":
    del sys.path[0]  # This folder's modules are no top-level ones.
    main(sys.argv[1:])

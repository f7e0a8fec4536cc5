"""Runs commands as forks of one process that has imported the command line.

Most commands take less time than their start. A fork has its own arguments, environment, folder and
standard files, and ends like any process; it shares the start of the interpreter and the imports.
This file is both sides: tests import it, and it is run by its path as the process that forks.
"""

from __future__ import annotations

import atexit
import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import threading
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from select import select
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, NoReturn

from agentpipe import cli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What commands import, most of them only when they need it.
IMPORTED = ("archive", "brokers", "cli", "config", "monitoring", "operations", "sinks", "worker")
# Python and the C library read these when they start.
READ_AT_START = ("LANG", "LC_", "LD_", "PYTHON", "TZ")
NUMBER = struct.Struct("!i")


class Fork:
    """A command that was started, with what tests use of ``subprocess.Popen``.

    Attributes:
        pid: Also the number of its process group.
        returncode: As ``subprocess`` gives it; None until ``poll`` or ``wait`` has seen its end.
    """

    def __init__(self, arguments: Sequence[str], reply: socket.socket) -> None:
        self._arguments, self._reply = list(arguments), reply
        self.pid = read_number(reply)
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """The exit code; None while it runs."""
        if self.returncode is None and select([self._reply], [], [], 0)[0]:
            self.wait()
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end; return the exit code.

        Raises:
            TimeoutExpired: It runs on.
        """
        if self.returncode is None:
            self._reply.settimeout(timeout)
            try:
                self.returncode = read_number(self._reply)
            except TimeoutError:
                raise subprocess.TimeoutExpired(self._arguments, timeout or 0) from None
            self._reply.close()
        return self.returncode

    def send_signal(self, kind: signal.Signals) -> None:
        """Send it a signal, unless it has ended."""
        if self.poll() is None:
            os.kill(self.pid, kind)

    def kill(self) -> None:
        """Kill it, unless it has ended."""
        self.send_signal(signal.SIGKILL)


class CommandForks:
    """The process that forks, from the first command until ``close``."""

    def __init__(self) -> None:
        self._control: socket.socket | None = None
        self._process: subprocess.Popen[bytes] | None = None

    @staticmethod
    def may_run(arguments: Sequence[str], environ: Mapping[str, str]) -> bool:
        """Whether a fork does the same as a new process."""
        return arguments[0] not in ("-c", "-m") and not any(
            name.startswith(READ_AT_START) for name in environ
        )

    def run(
        self,
        arguments: Sequence[str],
        stdin: bytes,
        environ: Mapping[str, str],
        folder: Path,
        timeout_s: float,
    ) -> tuple[int, bytes, bytes]:
        """Run ``agentpipe`` with these arguments; return its exit code, stdout and stderr.

        Raises:
            TimeoutExpired: It did not end in time; it was killed.
        """
        with ExitStack() as stack:
            given, out, err = (stack.enter_context(TemporaryFile()) for _ in range(3))
            given.write(stdin)
            given.seek(0)
            fork = self.start(arguments, environ, folder, (given, out, err))
            try:
                code = fork.wait(timeout_s)
            except BaseException:
                fork.kill()
                fork.wait()
                raise
            return code, _whole(out.fileno()), _whole(err.fileno())

    def start(
        self,
        arguments: Sequence[str],
        environ: Mapping[str, str],
        folder: Path,
        streams: Sequence[IO[bytes]],
    ) -> Fork:
        """Start ``agentpipe`` with these arguments and stdin, stdout and stderr."""
        request = {"arguments": arguments, "environ": dict(environ), "folder": str(folder)}
        ours, theirs = socket.socketpair()
        with TemporaryFile() as asked, theirs:
            asked.write(json.dumps(request).encode())
            asked.flush()
            given = [each.fileno() for each in streams]
            numbers = [asked.fileno(), *given, theirs.fileno()]
            socket.send_fds(self._started(), [b"!"], numbers)
        return Fork(arguments, ours)

    def _started(self) -> socket.socket:
        if self._control is None:
            self._control, theirs = socket.socketpair()
            with theirs:
                self._process = subprocess.Popen(
                    [sys.executable, __file__, str(theirs.fileno())],
                    env={},
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    start_new_session=True,
                )
        return self._control

    def close(self) -> None:
        """End the process; a command that still runs goes on."""
        if self._control is not None and self._process is not None:
            self._control.close()
            self._process.wait()


def read_number(reply: socket.socket) -> int:
    """Wait for a process id or an exit code."""
    (number,) = NUMBER.unpack(reply.recv(NUMBER.size, socket.MSG_WAITALL))
    return int(number)


def _whole(file: int) -> bytes:
    return os.pread(file, os.fstat(file).st_size, 0)


def serve(control: socket.socket) -> None:
    """Fork for each request; returns in each fork that is a command."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # The system reaps the watchers.
    while True:
        mark, files, *_ = socket.recv_fds(control, 1, 5)
        if not mark:
            sys.exit()
        if os.fork() == 0:
            control.close()
            return _watch(files)
        for file in files:
            os.close(file)


def _watch(files: list[int]) -> None:
    """Fork the command, which alone returns; report its process id and its exit code."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    asked, given, out, err, number = files
    if (pid := os.fork()) == 0:
        os.setpgid(0, 0)
        request = json.loads(_whole(asked))
        for target, file in enumerate((given, out, err)):
            os.dup2(file, target)
        for file in files:
            os.close(file)
        return _become(**request)
    os.setpgid(pid, pid)  # Whichever of both is first: the reader of the number may signal it.
    with socket.socket(fileno=number) as reply:
        reply.sendall(NUMBER.pack(pid))
        reply.sendall(NUMBER.pack(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])))
    os._exit(0)


def _become(arguments: list[str], environ: dict[str, str], folder: str) -> None:
    """Take what `python -m agentpipe` would have been started with."""
    os.chdir(folder)
    os.environ.update(environ)
    sys.path[0] = str(Path.cwd())
    sys.argv = [str(Path(str(cli.__file__)).parents[1] / "__main__.py"), *arguments]


def _import_all() -> None:
    for name in IMPORTED:
        package = import_module(f"agentpipe.{name}")
        for module in walk_packages(getattr(package, "__path__", []), f"{package.__name__}."):
            import_module(module.name)
    gc.freeze()  # Otherwise, each fork would copy the pages that its garbage collector visits.


def _end_with(code: int) -> NoReturn:
    """End without taking the interpreter down: that would copy most of the shared memory."""
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 - as Python's own end does
    atexit._run_exitfuncs()  # noqa: SLF001 - as above
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _command() -> int:
    try:
        return cli.main()
    except SystemExit as end:  # argparse's.
        return int(end.code or 0)


if __name__ == "__main__":
    _import_all()
    with socket.socket(fileno=int(sys.argv[1])) as _requests:
        serve(_requests)
    _end_with(_command())

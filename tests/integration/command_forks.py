"""Runs commands as forks of one process that has imported the command line.

Most commands take less time than their start. A fork has its own arguments, environment, folder and
standard files, and ends like any process; it shares the start of the interpreter and the imports.
This file is both sides: tests import it, and it is run by its path as the process that forks.
"""

from __future__ import annotations

import gc
import json
import os
import signal
import socket
import struct
import subprocess
import sys
from contextlib import ExitStack
from importlib import import_module
from pathlib import Path
from pkgutil import walk_packages
from tempfile import TemporaryFile
from typing import TYPE_CHECKING

from agentpipe import cli

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

# What commands import, most of them only when they need it.
IMPORTED = ("archive", "brokers", "cli", "config", "monitoring", "operations", "sinks", "worker")
# Python and the C library read these when they start.
READ_AT_START = ("LANG", "LC_", "LD_", "PYTHON", "TZ")
NUMBER = struct.Struct("!i")


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
        request = {"arguments": arguments, "environ": dict(environ), "folder": str(folder)}
        with ExitStack() as stack:
            files = [stack.enter_context(TemporaryFile()) for _ in range(4)]
            for file, content in zip(files, (json.dumps(request).encode(), stdin), strict=False):
                file.write(content)
                file.seek(0)
            ours, theirs = (stack.enter_context(it) for it in socket.socketpair())
            numbers = [*(it.fileno() for it in files), theirs.fileno()]
            socket.send_fds(self._started(), [b"!"], numbers)
            theirs.close()
            code = _end(ours, arguments, timeout_s)
            _, _, out, err = files
            return code, _whole(out.fileno()), _whole(err.fileno())

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


def _end(reply: socket.socket, arguments: Sequence[str], timeout_s: float) -> int:
    """Wait for the command's exit code, as ``subprocess`` gives it; whatever ends that kills it."""
    pid = read_number(reply)
    reply.settimeout(timeout_s)
    try:
        return read_number(reply)
    except TimeoutError:
        _kill(pid, reply)
        raise subprocess.TimeoutExpired(list(arguments), timeout_s) from None
    except BaseException:
        _kill(pid, reply)
        raise


def _kill(pid: int, reply: socket.socket) -> None:
    """Kill the command and wait until it is gone."""
    os.kill(pid, signal.SIGKILL)
    reply.settimeout(None)
    read_number(reply)


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
        request = json.loads(_whole(asked))
        for target, file in enumerate((given, out, err)):
            os.dup2(file, target)
        for file in files:
            os.close(file)
        return _become(**request)
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


if __name__ == "__main__":
    _import_all()
    with socket.socket(fileno=int(sys.argv[1])) as _requests:
        serve(_requests)
    sys.exit(cli.main())

"""Forking: how the reaper starts a child, and what the child does before its program runs.

The reaper runs with any Python, so this module only imports the standard library.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import socket
import stat
import sys
import traceback
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from collections.abc import Callable

    Serve = Callable[[socket.socket], None]

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class StartRequest:
    """How to start a child: a program, or a fork if ``argv`` is None."""

    argv: list[str] | None
    env: dict[str, str]
    cwd: str
    files: list[int]
    user: dict[str, Any] | None


def fork(start: StartRequest, serve: Serve) -> int:
    """Start a child and return its pid; without a program, it calls ``serve`` and exits.

    Raises:
        OSError: Its program cannot be started.
    """
    errors, errors_in = os.pipe()
    reaper, pid = os.getpid(), os.fork()
    if pid == 0:
        _become_child(start, serve, errors_in, reaper)
    os.close(errors_in)
    with os.fdopen(errors, "rb") as stream:
        number = stream.read()
    if number:
        os.waitpid(pid, 0)
        raise OSError(int(number), os.strerror(int(number)))
    return pid


def _become_child(start: StartRequest, serve: Serve, errors_in: int, reaper: int) -> NoReturn:
    code = 1
    try:
        _detach(start, reaper)
        if start.argv:
            _install_files(start.files)
            os.execvpe(start.argv[0], start.argv, start.env)  # noqa: S606 - no shell
        _install_files([os.open(os.devnull, os.O_RDONLY), *start.files[1:]])
        os.close(errors_in)
        code = _serve_as_fork(serve, start.files[0], start.env)
    except OSError as error:
        with suppress(OSError):
            os.write(errors_in, str(error.errno or errno.EIO).encode())
    finally:
        os._exit(code)


def _detach(start: StartRequest, reaper: int) -> None:
    os.setsid()
    os.chdir(start.cwd)  # Before changing the user, who may have no access to the worker's folder.
    if start.user is not None:
        _hand_over(start.files, start.user["uid"])
        become(start.user)
    prctl(PR_SET_PDEATHSIG, signal.SIGKILL)  # After changing the user, which would reset it.
    if os.getppid() != reaper:  # The reaper died before prctl took effect.
        os._exit(1)
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGPIPE):
        signal.signal(number, signal.SIG_DFL)


def _hand_over(files: list[int], uid: int) -> None:
    """Let the user reopen its pipes: programs open /dev/stdout by name."""
    for number in files:
        if stat.S_ISFIFO(os.fstat(number).st_mode):
            os.fchown(number, uid, -1)


def become(user: dict[str, Any]) -> None:
    """Switch to another user permanently; only root can."""
    os.setgroups(user["groups"])
    os.setgid(user["gid"])
    os.setuid(user["uid"])


def _install_files(files: list[int]) -> None:
    """Install the files as 0, 1 and 2; their own numbers are higher, as the reaper uses 0 to 2."""
    for target, number in enumerate(files):
        os.dup2(number, target, inheritable=True)


def _serve_as_fork(serve: Serve, channel: int, env: dict[str, str]) -> int:
    os.environ.clear()
    os.environ.update(env)
    try:
        serve(socket.socket(fileno=channel))
    except BaseException:  # noqa: BLE001 - nothing above catches it
        traceback.print_exc()
        sys.stderr.flush()
        return 1
    sys.stdout.flush()
    return 0


def prctl(option: int, value: int) -> None:
    """Call Linux's ``prctl``; do nothing on other systems."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(option, value, 0, 0, 0)

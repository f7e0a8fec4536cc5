"""Gives a process of ours its environment once no other process can read it there.

The environment that a program starts with is readable in ``/proc/PID/environ`` before the program
can protect itself. So it starts without credentials, and gets them through a socket.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentpipe.core.process_privacy import harden, is_kept_back, scrub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIABLE = "AGENTPIPE_HANDOVER"


def start(
    command: Sequence[str], environ: Mapping[str, str], pass_fds: Sequence[int] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program that calls ``receive`` first."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    # Code that loads before the program's first line, such as instrumentation, needs these.
    shown = {name: value for name, value in environ.items() if not is_kept_back(name, value)}
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, env={**shown, VARIABLE: str(number)}, pass_fds=(number, *pass_fds), **options
        )
    pairs = (f"{name}={value}" for name, value in environ.items() if name not in shown)
    _give(ours, b"\0".join(map(os.fsencode, pairs)))
    return process


def _give(ours: socket.socket, payload: bytes) -> None:
    """Send without a thread, which might never run: a frozen worker's guard must still start.

    A thread sends whatever does not fit into the socket buffer.
    """
    with suppress(OSError):
        rest = payload[ours.send(payload, socket.MSG_DONTWAIT) :] if payload else b""
        if rest:
            threading.Thread(
                target=_give_rest, args=(ours, rest), name="handover", daemon=True
            ).start()
            return
    ours.close()


def _give_rest(ours: socket.socket, rest: bytes) -> None:
    with ours, suppress(OSError):
        ours.sendall(rest)


def receive() -> None:
    """Receive the environment that the parent holds for this process, if any."""
    harden()
    scrub()
    if not (number := os.environ.pop(VARIABLE, "")):
        return
    with socket.socket(fileno=int(number)) as theirs, theirs.makefile("rb") as stream:
        pairs = stream.read().split(b"\0")
    for name, _, value in (pair.partition(b"=") for pair in pairs if pair):
        os.environb[name] = value

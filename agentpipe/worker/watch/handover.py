"""Gives a process of ours its environment once nobody else can read it there.

What a program is started with stands in ``/proc/PID/environ`` from its first moment on, before it
can protect itself. So it starts without credentials, and gets these by a socket.
"""

from __future__ import annotations

import os
import socket
import subprocess
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentpipe.core.process_privacy import harden, is_credential, scrub

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

VARIABLE = "AGENTPIPE_HANDOVER"
_READY = b"r"


def start(
    command: Sequence[str], environ: Mapping[str, str], pass_fds: Sequence[int] = (), **options: Any
) -> subprocess.Popen[bytes]:
    """Start a program that calls ``receive`` first."""
    ours, theirs = socket.socketpair()
    number = theirs.fileno()
    # What loads before the program's first line, such as an instrumentation, reads the others.
    shown = {name: value for name, value in environ.items() if not is_credential(name, value)}
    with theirs:
        process = subprocess.Popen(  # noqa: S603 - our own program
            command, env={**shown, VARIABLE: str(number)}, pass_fds=(number, *pass_fds), **options
        )
    hidden = {name: value for name, value in environ.items() if name not in shown}
    threading.Thread(target=_give, args=(ours, hidden), name="handover", daemon=True).start()
    return process


def _give(ours: socket.socket, hidden: Mapping[str, str]) -> None:
    with ours, suppress(OSError):
        if ours.recv(1) == _READY:
            pairs = (f"{name}={value}" for name, value in hidden.items())
            ours.sendall(b"\0".join(map(os.fsencode, pairs)))


def receive() -> None:
    """Take the environment that the parent keeps for this process, if it does."""
    harden()
    scrub()
    if not (number := os.environ.pop(VARIABLE, "")):
        return
    with socket.socket(fileno=int(number)) as theirs, theirs.makefile("rb") as stream:
        theirs.sendall(_READY)
        pairs = stream.read().split(b"\0")
    for name, _, value in (pair.partition(b"=") for pair in pairs if pair):
        os.environb[name] = value

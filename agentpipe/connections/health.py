"""Findings of `agentpipe doctor` about a server, a clock or a disk."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from agentpipe.errors import Unreachable

Status = Literal["ok", "warn", "fail"]
# Clocks synchronized by NTP differ by milliseconds.
MAX_SKEW_S = 1.0
SLOW_S = 0.1
LOW_BYTES, EMPTY_BYTES = 1024**3, 64 * 1024**2
SLOW_SYNC_S = 0.05
SYNCS = 5
# Their locks and shared memory do not work across machines.
NETWORKED = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs")


@dataclass(frozen=True, slots=True)
class Finding:
    """The result of one check.

    Attributes:
        advice: What to do; empty if nothing.
    """

    name: str
    status: Status
    found: str
    advice: str = ""


@runtime_checkable
class Examined(Protocol):
    """A store or sink that can examine its server, as all built-in ones can."""

    def examine(self) -> list[Finding]:
        """Check the server; may raise ``Unreachable``."""


def ok(name: str, found: str) -> Finding:
    """A check that passed."""
    return Finding(name, "ok", found)


def warn(name: str, found: str, advice: str) -> Finding:
    """Something works, with a caveat."""
    return Finding(name, "warn", found, advice)


def fail(name: str, found: str, advice: str) -> Finding:
    """Something does not work, or is not safe."""
    return Finding(name, "fail", found, advice)


def round_trip(took_s: float) -> Finding:
    """The time that a server takes to answer."""
    found = f"{took_s * 1000:.2f} ms"
    if took_s < SLOW_S:
        return ok("round trip", found)
    return warn("round trip", found, "each claim waits for it: move workers and server together")


def clock_skew(ahead_s: float, precision_s: float = 0.0) -> Finding:
    """The offset of a server's clock from this machine's."""
    found = f"{skew(ahead_s)} against this machine, to within {precision_s:.3f} s"
    if is_close(ahead_s, precision_s):
        return ok("clock", found)
    advice = "deadlines and times of results are off: run an NTP client on both machines"
    return warn("clock", found, advice)


def is_close(ahead_s: float, precision_s: float = 0.0) -> bool:
    """Whether two clocks agree well enough."""
    return abs(ahead_s) <= MAX_SKEW_S + precision_s


def skew(ahead_s: float) -> str:
    """A clock's offset as text, such as ``+0.250 s``."""
    return f"{ahead_s:+.3f} s".replace("-0.000", "+0.000")


# The disk of an embedded store.


def examine_folder(file: Path) -> list[Finding]:
    """Space, type and speed of the file system that holds ``file``.

    Raises:
        Unreachable: The folder cannot be written.
    """
    try:
        return [_space(file.parent), _type(file.parent), _sync(file.parent)]
    except OSError as error:
        raise Unreachable(f"{file.parent}: {error.strerror}") from error


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    found = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free < EMPTY_BYTES:
        return fail("disk space", found, "free some space: soon nothing more can be stored")
    if free < LOW_BYTES:
        return warn("disk space", found, "free some space, or use a URL on another disk")
    return ok("disk space", found)


def _type(folder: Path) -> Finding:
    kind = file_system_of(folder, Path("/proc/self/mounts"))
    if kind in NETWORKED:
        advice = "file locks do not work on it: use a sqlite:/// URL on a local disk"
        return fail("file system", kind, advice)
    return ok("file system", kind or "unknown")


def file_system_of(folder: Path, mounts: Path) -> str:
    """The type of the file system that ``folder`` is on; empty if the kernel does not say."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    above = [str(each) for each in (folder.resolve(), *folder.resolve().parents)]
    # The last of several mounts at one path hides the others.
    found = {parts[1]: parts[2] for line in lines if len(parts := line.split()) > 2}  # noqa: PLR2004 - columns
    return next((found[place] for place in above if place in found), "")


def _sync(folder: Path) -> Finding:
    from statistics import median

    took_s = median(_sync_s(folder) for _ in range(SYNCS))
    found = f"{took_s * 1000:.1f} ms until a write is on the disk"
    if took_s > SLOW_SYNC_S:
        advice = "each accepted batch waits for it: use a faster disk, or ?synchronous=normal"
        return warn("disk sync", found, advice)
    return ok("disk sync", found)


def _sync_s(folder: Path) -> float:
    with tempfile.TemporaryFile(dir=folder) as file:
        file.write(b"x" * 4096)
        file.flush()
        begun = time.perf_counter()
        os.fdatasync(file.fileno())
        return time.perf_counter() - begun

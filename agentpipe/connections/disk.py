"""Disk: what there is to know of the folder in which an embedded store lies."""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from pathlib import Path
from statistics import median

from agentpipe.connections.health import Finding, fail, ok, warn
from agentpipe.errors import Unreachable

LOW_BYTES, EMPTY_BYTES = 1024**3, 64 * 1024**2
SLOW_SYNC_S = 0.05
SYNCS = 5
# Their locks and shared memory are not those of one kernel.
OF_A_NETWORK = ("nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "ceph", "glusterfs", "fuse.sshfs")


def examine_folder(file: Path) -> list[Finding]:
    """Space, kind and speed of the file system that ``file`` lies on.

    Raises:
        Unreachable: The folder cannot be written.
    """
    try:
        return [_space(file.parent), _kind(file.parent), _sync(file.parent)]
    except OSError as error:
        raise Unreachable(f"{file.parent}: {error.strerror}") from error


def _space(folder: Path) -> Finding:
    free = shutil.disk_usage(folder).free
    found = f"{free / 1024**3:.1f} GiB free at {folder}"
    if free < EMPTY_BYTES:
        return fail("disk space", found, "free some: nothing more can be stored soon")
    if free < LOW_BYTES:
        return warn("disk space", found, "free some, or give a URL on another disk")
    return ok("disk space", found)


def _kind(folder: Path) -> Finding:
    kind = file_system_of(folder, Path("/proc/self/mounts"))
    if kind in OF_A_NETWORK:
        advice = "locks do not work there: give a sqlite:/// URL on a local disk"
        return fail("file system", kind, advice)
    return ok("file system", kind or "unknown")


def file_system_of(folder: Path, mounts: Path) -> str:
    """The kind of the file system mounted nearest above; empty where nobody tells."""
    try:
        lines = mounts.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    above = [str(each) for each in (folder.resolve(), *folder.resolve().parents)]
    # Of several mounted at one place the last one is seen.
    found = {parts[1]: parts[2] for line in lines if len(parts := line.split()) > 2}  # noqa: PLR2004
    return next((found[place] for place in above if place in found), "")


def _sync(folder: Path) -> Finding:
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

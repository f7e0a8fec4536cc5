"""Runs code as another user of the machine, for attacks that must fail."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
import traceback
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

NOBODY = 65534
needs_root = pytest.mark.skipif(
    sys.platform != "linux" or os.geteuid() != 0,
    reason="starts processes of another user, which only root can",
)


def as_other_user(function: Callable[[], Any], uid: int = NOBODY) -> Any:
    """The result of ``function``, sent as JSON from a forked process of another user."""
    reading, writing = os.pipe()
    if (pid := os.fork()) == 0:
        _run_as(uid, function, writing)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        said = stream.read()
    assert os.waitpid(pid, 0)[1] == 0
    return json.loads(said)


def _run_as(uid: int, function: Callable[[], Any], writing: int) -> None:
    code = 1
    try:
        become(uid)
        os.write(writing, json.dumps(function()).encode())
        code = 0
    except BaseException:  # noqa: BLE001 - the exit code reports it to the parent
        traceback.print_exc()
    finally:
        os._exit(code)


def become(uid: int) -> None:
    """Switch this process to another user, permanently."""
    os.setgroups([])
    os.setgid(uid)
    os.setuid(uid)


@contextmanager
def shared_folder() -> Iterator[Path]:
    """A temporary folder that every user can enter and read."""
    folder = Path(tempfile.mkdtemp(prefix="agentpipe-shared-"))
    folder.chmod(0o755)
    try:
        yield folder
    finally:
        shutil.rmtree(folder)

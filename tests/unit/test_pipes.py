"""Reading a child's pipes, and whether a process is alive."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys

import pytest

from agentpipe.core.caps import STDERR_END_BYTES
from agentpipe.core.processes import is_alive
from agentpipe.engines.process.pipes import read_end


@pytest.mark.parametrize(
    ("written", "read"),
    [
        (b" all of it\n", "all of it"),
        (b"x" * STDERR_END_BYTES, "x" * STDERR_END_BYTES),
        (b"half-a-secret " + b"y" * (STDERR_END_BYTES - 4), "y" * (STDERR_END_BYTES - 4)),
        (b"z" * (STDERR_END_BYTES + 1), ""),
    ],
)
def test_the_end_of_stderr_begins_with_a_whole_word(written: bytes, read: str) -> None:
    ours, theirs = os.pipe()
    with os.fdopen(theirs, "wb") as end:
        end.write(written)
    assert asyncio.run(read_end(ours)) == read


def test_a_process_that_ended_is_not_alive_though_its_parent_has_not_waited() -> None:
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert is_alive(child.pid)
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # It remains a zombie.
    assert not is_alive(child.pid)
    child.communicate()
    assert not is_alive(child.pid)

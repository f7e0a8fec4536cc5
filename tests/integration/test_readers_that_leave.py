"""Output into a pipe whose reader has ended, as with ``| head``."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.mark.parametrize(
    "arguments",
    [("runs",), ("status", "--json"), ("top", "--once"), ("--help",), ("--version",)],
)
def test_a_reader_that_is_gone_is_no_error(project: Project, arguments: tuple[str, ...]) -> None:
    project.collection()
    project.send("echo one")
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(
        [sys.executable, "-m", "agentpipe", *arguments],
        stdout=writer,
        stderr=subprocess.PIPE,
        env=project.environ,
        cwd=project.folder,
        check=False,
    )
    os.close(writer)
    assert done.returncode == 0, done.stderr
    assert b"BrokenPipe" not in done.stderr

"""Commands that a short test waits for are forks: each does what a process of its own would."""

from __future__ import annotations

import subprocess
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project


@pytest.mark.parametrize(
    "arguments",
    [
        ("--version",),
        ("check", "--json"),
        ("status", "--jsn"),
        ("send", "toys", "--file", "-"),
        ("deploy", "systemd"),
    ],
)
def test_a_fork_ends_as_a_process_does(project: Project, arguments: tuple[str, ...]) -> None:
    project.collection()
    forked = project.run(*arguments, stdin='{"question": 1}\n')
    project.forks = None
    assert project.run(*arguments, stdin='{"question": 1}\n') == forked


def test_a_fork_that_does_not_end_is_killed_and_the_next_runs(project: Project) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        project.run("tail", timeout_s=0.1)
    assert project.ok("--version").out

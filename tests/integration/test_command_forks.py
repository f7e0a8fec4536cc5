"""Workers of a short test, and commands that it waits for, are forks: each is like a process."""

from __future__ import annotations

import subprocess
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.integration import command_forks
from tests.integration.command_forks import read_number

if TYPE_CHECKING:
    import socket

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
    assert not running_in(project.folder)
    assert project.ok("--version").out


def test_a_command_ends_with_an_interrupted_test(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = iter([read_number, interrupted, read_number])

    def next_number(reply: socket.socket) -> int:
        return next(replies)(reply)

    monkeypatch.setattr(command_forks, "read_number", next_number)
    with pytest.raises(KeyboardInterrupt):
        project.run("tail")
    assert not running_in(project.folder)


def test_workers_are_signalled_and_end_as_those_of_a_process(project: Project) -> None:
    project.collection()
    forked = project.work("--processes", "1").ready(1)
    assert forked.process.poll() is None
    assert forked.process.pid in project.processes()
    assert (forked.stop(), forked.process.poll()) == (0, 0)
    assert not project.processes()
    assert "leaves and releases 0 tasks" in forked.log


def interrupted(_: socket.socket) -> int:
    raise KeyboardInterrupt


def running_in(folder: Path) -> list[str]:
    """The ids of processes whose current folder this is."""
    return [each.name for each in Path("/proc").glob("[0-9]*") if folder_of(each) == str(folder)]


def folder_of(process: Path) -> str:
    """Empty if it has ended, or is not ours."""
    with suppress(OSError):
        return str((process / "cwd").readlink())
    return ""

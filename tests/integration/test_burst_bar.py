"""The progress bar of ``work --burst`` on a terminal, below the workers' log."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.tmux import Tmux

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Project


@pytest.fixture
def terminal(project: Project) -> Iterator[Tmux]:
    with Tmux(project.folder, project.environ) as opened:
        yield opened


@pytest.mark.long
@pytest.mark.process
def test_a_burst_has_a_bar_below_the_log_and_gives_its_row_back(
    project: Project, terminal: Tmux
) -> None:
    project.collection(number=2)
    project.send("murmur hi", "wait-for-file end")
    region = terminal.flag("scroll_region_lower")
    before = terminal.state()
    terminal.run("work", "--burst", "--processes", "1")
    shown = terminal.see("1 of 2 tasks, 1 running", "at work")
    assert shown.splitlines()[-1].startswith("[###")
    (project.folder / "end").touch()
    terminal.see("releases 0 tasks", without=("of 2 tasks",))
    assert terminal.state() == before
    assert terminal.flag("scroll_region_lower") == region == "23"

"""Two trainers of one name: the living one goes on, and one that was replaced does nothing."""

from __future__ import annotations

import os
import signal
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentpipe import ConfigError, Rollouts, Settings
from agentpipe.errors import LoopTaken
from agentpipe.training import loop_lease
from tests.integration.trainers import (
    JUDGED,
    assert_each_once,
    end_of,
    reach,
    settings_on,
    trainer,
    working,
    write_project,
)
from tests.stores import open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path


@pytest.fixture(params=["redis", "sqlite"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return settings_on(request, tmp_path)


def opened(settings: Settings, folder: Path) -> Rollouts:
    prompts = [{"question": "2", "evaluators": JUDGED}]
    return Rollouts.open(folder / "mixed.yaml", prompts, n=4, batch=3, settings=settings)


def holder_of(settings: Settings) -> int:
    """The trainer that has the loop."""
    with closing(open_any(settings)) as store:
        (found,) = store.loops()
        return int(found.said["pid"])


def test_a_second_trainer_is_told_and_the_first_goes_on(settings: Settings, tmp_path: Path) -> None:
    write_project(tmp_path)
    (tmp_path / "meet-used-1").touch()
    with working(settings, tmp_path):
        first = trainer(settings, tmp_path)
        reach(first, tmp_path, "used-1")
        with pytest.raises(LoopTaken) as caught:
            opened(settings, tmp_path)
        assert isinstance(caught.value, ConfigError)
        for words in ("loop 'mixed'", f"process {first.pid} on ", "Stop that one", "`name`"):
            assert words in str(caught.value)
        (tmp_path / "go-used-1").touch()
        end = end_of(first)
    assert_each_once(end["used"], tmp_path)


def test_a_trainer_goes_on_at_once_where_the_one_before_was_killed_or_has_closed(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    (tmp_path / "meet-used-0").touch()
    with working(settings, tmp_path):
        killed = trainer(settings, tmp_path)
        reach(killed, tmp_path, "used-0")
        killed.kill()
        killed.communicate()

    def refuse(_: float) -> None:
        raise AssertionError("it waits")

    monkeypatch.setattr(loop_lease, "wait", refuse)
    for _ in range(2):
        opened(settings, tmp_path).close()


def test_a_loop_that_is_opened_again_in_its_process_takes_the_place_of_the_first(
    settings: Settings, tmp_path: Path
) -> None:
    write_project(tmp_path)
    with (
        closing(opened(settings, tmp_path)) as first,
        closing(opened(settings, tmp_path)) as second,
    ):
        second.state_dict()
        wait_until(lambda: _has_lost(first), 30, "the first one learns of it")
        second.state_dict()


def test_a_closed_loop_still_tells_its_state_and_may_be_closed_again(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path)
    monkeypatch.setattr(loop_lease, "LEASE_S", 0.0)  # It is unsure at once.
    loop = opened(settings, tmp_path)
    loop.close()
    assert loop.state_dict()["version"] == 1
    loop.close()


def _has_lost(loop: Rollouts) -> bool:
    try:
        loop.state_dict()
    except LoopTaken:
        return True
    return False


@pytest.mark.long
@pytest.mark.parametrize("with_policy", [False, True])
def test_a_trainer_that_was_stopped_and_replaced_sends_and_counts_nothing_when_it_wakes(
    settings: Settings, tmp_path: Path, *, with_policy: bool
) -> None:
    write_project(tmp_path, with_policy=with_policy)
    (tmp_path / "meet-used-1").touch()
    with working(settings, tmp_path):
        stopped = trainer(settings, tmp_path)
        reach(stopped, tmp_path, "used-1")
        os.kill(stopped.pid, signal.SIGSTOP)
        (tmp_path / "meet-used-1").unlink()
        living = trainer(settings, tmp_path)
        wait_until(lambda: holder_of(settings) == living.pid, 120, "it is replaced")
        (tmp_path / "go-used-1").touch()
        os.kill(stopped.pid, signal.SIGCONT)
        out, _ = stopped.communicate(timeout=120)
        assert (stopped.returncode, out) == (1, "")
        said = (tmp_path / "trainer.log").read_text()
        assert "LoopTaken: loop 'mixed': this trainer has lost it" in said
        assert f"process {living.pid} on " in said
        end = end_of(living)
    assert_each_once(end["used"], tmp_path)

"""Two trainers with the same name: the active one continues, the replaced one does nothing."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import uuid
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import redis

from agentpipe import ConfigError, Rollouts, Settings
from agentpipe.connections.sqlite_address import parse_url
from agentpipe.errors import LoopTaken
from agentpipe.training import loop_lease
from agentpipe.trl import GrpoRollouts
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
    from collections.abc import Iterator

    from brokers.server import Server

FORKS = """
import os, sys
from contextlib import closing
from agentpipe import Rollouts, Settings
from agentpipe.brokers import open_store
settings = Settings(broker=sys.argv[1], sink=sys.argv[2])
with Rollouts.open("mixed.yaml", [], n=4, batch=3, settings=settings) as rollouts:
    if not (child := os.fork()):
        rollouts.close()
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    with closing(open_store(settings)) as store:
        assert [it.name for it in store.loops()] == ["mixed"]
    assert list(rollouts) == []
"""
OF_TRL = """
import sys, time
from agentpipe import Settings
from agentpipe.trl import GrpoRollouts
settings = Settings(broker=sys.argv[1], sink=sys.argv[2])
with GrpoRollouts.open("mixed.yaml", dict, settings=settings, rank=0):
    print("open", flush=True)
    time.sleep(600)
"""


# Conformance tests cover the Redis store; the long tier runs whole trainers on Redis.
SLOW_ON_REDIS = pytest.mark.parametrize(
    "settings", ["sqlite", pytest.param("redis", marks=pytest.mark.long)], indirect=True
)


@pytest.fixture(params=[pytest.param("redis", marks=pytest.mark.long), "sqlite"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    return settings_on(request, tmp_path)


def opened(settings: Settings, folder: Path) -> Rollouts:
    prompts = [{"question": "2", "evaluators": JUDGED}]
    return Rollouts.open(folder / "mixed.yaml", prompts, n=4, batch=3, settings=settings)


def holder_of(settings: Settings) -> int:
    """The pid of the trainer that holds the loop."""
    with closing(open_any(settings)) as store:
        (found,) = store.loops()
        return int(found.said["pid"])


@SLOW_ON_REDIS
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


@pytest.mark.long
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

    monkeypatch.setattr(loop_lease, "wait", _refuse)
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
    monkeypatch.setattr(loop_lease, "LEASE_S", 0.0)  # The loop is unsure of its lease at once.
    loop = opened(settings, tmp_path)
    loop.close()
    assert loop.state_dict()["version"] == 1
    loop.close()


def test_a_trainer_that_waits_for_groups_learns_that_it_was_replaced(
    settings: Settings, tmp_path: Path
) -> None:
    write_project(tmp_path)  # No worker runs: no group ever arrives.
    with closing(opened(settings, tmp_path)) as first, ThreadPoolExecutor() as threads:
        waits = threads.submit(next, iter(first))
        wait_until(lambda: loop_of(settings)["waits"] is True, 30, "it waits")
        with closing(opened(settings, tmp_path)), pytest.raises(LoopTaken, match="it belongs to"):
            waits.result(60)


def test_a_loop_that_another_had_meanwhile_is_lost_though_nobody_has_it_now(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_lease, "BEAT_S", 3600.0)  # No heartbeats, like a stopped trainer.
    monkeypatch.setattr(loop_lease, "LEASE_S", 0.0)
    write_project(tmp_path)
    with closing(opened(settings, tmp_path)) as first:
        opened(settings, tmp_path).close()
        with pytest.raises(LoopTaken, match="whose last state counts"):
            first.state_dict()
        with pytest.raises(LoopTaken):
            first.state_dict()


def test_a_broker_that_lost_its_data_is_named(
    redis_server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(loop_lease, "BEAT_S", 0.05)
    prefix = f"loop-{uuid.uuid4().hex[:8]}"
    sink = f"sqlite:///{tmp_path / 'results.db'}"
    settings = Settings(broker=f"{redis_server.url}?prefix={prefix}", sink=sink)
    write_project(tmp_path)
    with closing(opened(settings, tmp_path)) as loop, redis.Redis.from_url(redis_server.url) as own:
        own.delete(*own.keys(f"{prefix}*"), *own.keys(f"{{{prefix}}}*"))
        wait_until(lambda: _has_lost(loop), 30, "it learns of it")
        with pytest.raises(LoopTaken, match="the broker has lost its data"):
            next(iter(loop))


def test_a_fork_does_not_give_up_the_loop_of_its_parent(settings: Settings, tmp_path: Path) -> None:
    write_project(tmp_path)
    command = [sys.executable, "-c", FORKS, settings.broker, settings.sink]
    subprocess.run(command, cwd=tmp_path, check=True, timeout=60)


def test_with_trl_a_second_trainer_is_told_and_after_a_kill_the_next_goes_on_at_once(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_project(tmp_path, records=True)
    command = [sys.executable, "-c", OF_TRL, settings.broker, settings.sink]
    open_it = partial(GrpoRollouts.open, tmp_path / "mixed.yaml", dict, settings=settings)
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.PIPE, text=True) as first:
        try:
            assert first.stdout is not None
            assert first.stdout.readline() == "open\n"
            with pytest.raises(LoopTaken, match=f"loop 'mixed-0': .* process {first.pid} on "):
                open_it(rank=0)
            open_it(rank=1).close()
        finally:
            first.kill()
    monkeypatch.setattr(loop_lease, "wait", _refuse)
    open_it(rank=0).close()


def test_a_trainer_with_trl_that_was_replaced_sends_nothing(
    settings: Settings, tmp_path: Path
) -> None:
    write_project(tmp_path, records=True)
    state = SimpleNamespace(global_step=0)
    model = SimpleNamespace(training=True)
    trainer = SimpleNamespace(model=model, num_generations=2, state=state)

    def task_of(prompt: str) -> dict[str, str]:
        return {"question": prompt}

    open_it = partial(GrpoRollouts.open, tmp_path / "mixed.yaml", task_of, settings=settings)
    with closing(open_it()) as first, closing(open_it()):
        with pytest.raises(LoopTaken):
            first(["1", "1"], trainer)
        with closing(open_any(settings)) as store:
            assert store.stats().accepted == 0


def _refuse(_: float) -> None:
    raise AssertionError("it waits")


def loop_of(settings: Settings) -> dict[str, Any]:
    with closing(open_any(settings)) as store:
        (found,) = store.loops()
        return found.said


def _has_lost(loop: Rollouts) -> bool:
    try:
        loop.state_dict()
    except LoopTaken:
        return True
    return False


@contextmanager
def _locks(settings: Settings) -> Iterator[None]:
    """Hold the locks of embedded stores: a process that is stopped with one stops all others."""
    with ExitStack() as stack:
        for url in (settings.broker, settings.sink):
            if url.startswith("sqlite:"):
                path = Path(f"{parse_url(url).path}-lock")
                fcntl.flock(stack.enter_context(path.open("a+")), fcntl.LOCK_EX)
        yield


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
        with _locks(settings):
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

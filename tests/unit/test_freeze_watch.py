"""A worker is frozen only if it is silent while its watcher runs."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING

from agentpipe.worker.watch.freeze_watch import (
    BEAT_S,
    HELD_UP_S,
    LOOK_EVERY_S,
    MAX_STEP_S,
    MIN_FREEZE_S,
    STOPPED_S,
    FreezeWatch,
    freeze_limit_s,
    is_stopped,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable


def _looks(watch: FreezeWatch, pass_time: Callable[[float], None], seconds: float) -> bool:
    for _ in range(round(seconds / LOOK_EVERY_S)):
        pass_time(LOOK_EVERY_S)
        if watch.is_frozen(7):
            return True
    return False


def test_silence_counts_until_the_limit(pass_time: Callable[[float], None]) -> None:
    watch = FreezeWatch(5.0)
    assert not _looks(watch, pass_time, 4.9)
    assert _looks(watch, pass_time, 0.5)


def test_a_beat_begins_anew(pass_time: Callable[[float], None]) -> None:
    watch = FreezeWatch(5.0)
    assert not _looks(watch, pass_time, 4.9)
    assert not watch.is_frozen(8)
    assert not _looks(watch, pass_time, 4.9)


def test_a_worker_that_is_held_up_for_a_second_is_known_before_the_limit(
    pass_time: Callable[[float], None],
) -> None:
    watch = FreezeWatch(5.0)
    assert not _looks(watch, pass_time, HELD_UP_S - 2 * LOOK_EVERY_S)
    seen = [watch.is_held_up]
    assert not _looks(watch, pass_time, 4 * LOOK_EVERY_S)
    seen.append(watch.is_held_up)
    watch.is_frozen(8)
    assert [*seen, watch.is_held_up] == [False, True, False]


def test_a_worker_that_is_stopped_is_held_up_by_none_of_its_runs(
    pass_time: Callable[[float], None],
) -> None:
    with subprocess.Popen(["sleep", "60"]) as process:
        watch = FreezeWatch(5.0, lambda: is_stopped(process.pid))
        process.send_signal(signal.SIGSTOP)
        wait_until(lambda: is_stopped(process.pid), 20, "it is stopped")
        assert not _looks(watch, pass_time, HELD_UP_S + 2 * LOOK_EVERY_S)
        process.kill()  # A dead process is no longer stopped.
        process.wait()
        watch.is_frozen(7)
        assert not watch.is_held_up
        watch.is_frozen(8)
        assert not _looks(watch, pass_time, HELD_UP_S + 2 * LOOK_EVERY_S)
        assert watch.is_held_up


def test_a_machine_or_a_watcher_that_slept_for_an_hour_ends_no_worker(
    pass_time: Callable[[float], None],
) -> None:
    watch = FreezeWatch(5.0)
    assert not _looks(watch, pass_time, 4.0)
    pass_time(3_600.0)
    assert not watch.is_frozen(7)
    assert not _looks(watch, pass_time, 5.0 - 4.0 - MAX_STEP_S - LOOK_EVERY_S)
    assert not watch.is_frozen(8)


def test_a_worker_that_stood_still_with_its_watcher_was_stopped(
    pass_time: Callable[[float], None],
) -> None:
    """In a paused container, none of its runs is to blame for what happens next."""
    for beaten in (6, 7):  # One more heartbeat can follow the last look.
        watch = FreezeWatch(5.0)
        watch.is_frozen(beaten)
        pass_time(STOPPED_S + LOOK_EVERY_S)
        watch.is_frozen(7)
        assert (watch.is_stopped, watch.is_held_up) == (True, False)
        assert not _looks(watch, pass_time, HELD_UP_S + 2 * LOOK_EVERY_S)
        assert (watch.is_stopped, watch.is_held_up) == (True, False)
        watch.is_frozen(8)
        assert not watch.is_stopped


def test_a_watcher_that_alone_was_stopped_says_nothing_of_its_worker(
    pass_time: Callable[[float], None],
) -> None:
    watch = FreezeWatch(5.0)
    watch.is_frozen(7)
    pass_time(STOPPED_S + LOOK_EVERY_S)
    watch.is_frozen(7 + round(STOPPED_S / BEAT_S / 2))
    assert not watch.is_stopped


def test_a_freeze_is_noticed_before_the_lease_is_over() -> None:
    """The last renewal was at most a third of the lease before the freeze."""
    assert freeze_limit_s(30.0) < 30.0 * 2 / 3
    assert freeze_limit_s(1.0) == MIN_FREEZE_S

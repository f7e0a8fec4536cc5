"""FreezeWatch: detects from outside that a worker no longer beats."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.core.processes import stat_of

if TYPE_CHECKING:
    from collections.abc import Callable

# A worker's beat interval, from a thread that does almost nothing else.
BEAT_S = 0.2
# Its watcher's polling interval.
LOOK_EVERY_S = 0.1
# A call that holds the interpreter for less than this is slow, not stuck.
MIN_FREEZE_S = 5.0
# A worker silent for this long is not waiting for a core: one run holds up all others.
HELD_UP_S = 1.0
# Most silence counted per look: time in which the watcher or the machine stood still says nothing
# about the worker.
MAX_STEP_S = 0.5
# A watcher this late was stopped, not waiting for a core: a worker that was silent meanwhile was
# stopped with it (`docker pause`, a sleeping machine).
STOPPED_S = 2.0
# Such a worker made at most this part of its beats; on a busy machine it misses only some.
FEW = 0.25


def freeze_limit_s(lease_s: float) -> float:
    """Longest silence of a worker; it ends before its lease, whose end would blame all runs."""
    return max(MIN_FREEZE_S, lease_s / 2)


def is_stopped(pid: int) -> bool:
    """Whether a signal has stopped the process, if the system reports it."""
    stat = stat_of(pid)
    return stat is not None and stat.is_stopped


class FreezeWatch:
    """Counts one worker's silence, in the watcher's own steps.

    Args:
        limit_s: Longest silence allowed.
        stopped: Whether the worker is currently stopped from outside.
    """

    def __init__(self, limit_s: float, stopped: Callable[[], bool] = lambda: False) -> None:
        self._limit_s, self._stopped = limit_s, stopped
        self._beats, self._was_stopped = -1, False
        self._silent_s, self._looked_at = 0.0, time.monotonic()

    @property
    def is_held_up(self) -> bool:
        """Whether it had been silent for a while at the last look, and not stopped from outside."""
        return self._silent_s >= HELD_UP_S and not self._was_stopped

    @property
    def is_stopped(self) -> bool:
        """Whether it was silent at the last look because it was stopped from outside."""
        return self._was_stopped

    def is_frozen(self, beats: int) -> bool:
        """Whether it has been silent for too long; ``beats`` is its current counter."""
        now = time.monotonic()
        passed_s, self._looked_at = now - self._looked_at, now
        stood_still = self._stood_still(beats - self._beats, passed_s)
        if beats != self._beats:
            self._beats, self._silent_s, self._was_stopped = beats, 0.0, stood_still
            return False
        self._silent_s += min(passed_s, MAX_STEP_S)
        if not self._was_stopped:
            seen = self._silent_s >= HELD_UP_S and self._stopped()
            self._was_stopped = seen or stood_still
        return self._silent_s > self._limit_s

    def _stood_still(self, beaten: int, passed_s: float) -> bool:
        """Whether watcher and worker both stood still; one beat may follow the last look."""
        is_first = self._beats < 0
        return passed_s >= STOPPED_S and not is_first and beaten * BEAT_S < passed_s * FEW

"""Strikes: kills and freezes worker processes at random."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import time
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.core.processes import is_alive
from agentpipe.errors import StoreError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

PATIENCE_S = 60.0
LOOK_EVERY_S = 0.1
# A process of its own, so that nothing stays frozen after the end of ours, however that ends.
_FREEZE = 'kill -STOP "$@"; sleep "$0"; kill -CONT "$@"'


class Strikes:
    """Each process is struck once.

    Attributes:
        at: When each was, on the wall clock, by its id.
    """

    def __init__(self, workers: Callable[[], Iterable[int]], seed: int = 0) -> None:
        """``workers`` are the ids of the processes that serve."""
        self._workers = workers
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._freezes: list[tuple[subprocess.Popen[bytes], list[int]]] = []
        self.at: dict[int, float] = {}

    def kill(self) -> None:
        """Kill one of them."""
        with suppress(ProcessLookupError):
            os.kill(self._victim(), signal.SIGKILL)

    def freeze(self, for_s: float, *others: int) -> None:
        """Stop one of them for a time, and before it the others, who would end it."""
        pids = [*others, self._victim()]
        command = ["/bin/sh", "-c", _FREEZE, f"{for_s:g}", *map(str, pids)]
        freezing = subprocess.Popen(  # noqa: S603 - ours
            command, stderr=subprocess.DEVNULL, start_new_session=True
        )
        self._freezes.append((freezing, pids))

    def _victim(self) -> int:
        give_up_at = time.monotonic() + PATIENCE_S
        while not (living := [it for it in self._workers() if it not in self.at and is_alive(it)]):
            if time.monotonic() > give_up_at:
                raise StoreError(f"no worker serves, after {PATIENCE_S:g} s")
            time.sleep(LOOK_EVERY_S)
        pid = self._random.choice(living)
        self.at[pid] = time.time()
        return pid

    def await_thaw(self) -> None:
        """Wait until nothing is frozen."""
        for freezing, _ in self._freezes:
            freezing.wait()

    def thaw(self) -> None:
        """Let all go on at once."""
        for freezing, pids in self._freezes:
            if freezing.poll() is None:
                freezing.kill()
                freezing.wait()
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)

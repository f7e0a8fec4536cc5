"""Strikes: kill and freeze random worker processes."""

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
# A separate process, so that frozen processes continue even if ours dies.
_FREEZE = 'kill -STOP "$@"; sleep "$0"; kill -CONT "$@"'


class Strikes:
    """Strikes each process at most once.

    Attributes:
        at: Wall-clock time of each strike, by pid.
    """

    def __init__(self, workers: Callable[[], Iterable[int]], seed: int = 0) -> None:
        """``workers`` returns the pids of the serving processes."""
        self._workers = workers
        self._random = random.Random(seed)  # noqa: S311 - no secret
        self._freezes: list[tuple[subprocess.Popen[bytes], list[int]]] = []
        self.at: dict[int, float] = {}

    def kill(self) -> None:
        """Kill a random worker."""
        with suppress(ProcessLookupError):
            os.kill(self._victim(), signal.SIGKILL)

    def freeze(self, for_s: float, *others: int) -> None:
        """Stop a random worker for a while; first the ``others``, which would otherwise kill it."""
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
        """Resume all frozen processes now."""
        for freezing, pids in self._freezes:
            if freezing.poll() is None:
                freezing.kill()
                freezing.wait()
                for pid in pids:
                    with suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGCONT)

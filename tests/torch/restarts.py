"""Kills and restarts of trainers and loaders."""

from __future__ import annotations

import signal
import subprocess
from typing import TYPE_CHECKING, Any

from tests.support import wait_until

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path


def kill_at_random(
    command: Sequence[str],
    environ: Mapping[str, str],
    progress: Path,
    dice: random.Random,
    steps: range,
    *,
    times: int,
    patience_s: float,
) -> None:
    """Kill a trainer ``times`` times after random ``steps``; it writes a byte a step."""
    for _ in range(times):
        progress.write_bytes(b"")
        process = subprocess.Popen(command, env=environ)
        number = dice.randrange(steps.start, steps.stop)
        wait_until(lambda: progress.stat().st_size >= number, patience_s, "it trains")  # noqa: B023
        process.send_signal(signal.SIGKILL)
        process.wait()


def used_over_a_restart(loader: Callable[[], Any], batches: int) -> list[Any]:
    """All items of a loader stopped after some batches, and of one that loads its state."""
    first = loader()
    given = iter(first)
    used = [each for _ in range(batches) for each in next(given)]
    state = first.state_dict()
    for _ in range(3):  # Used after the state was saved, so lost.
        next(given)
    del given, first
    second = loader()
    second.load_state_dict(state)
    return used + [each for batch in second for each in batch]

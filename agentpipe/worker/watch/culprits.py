"""Culprits: which runs froze a worker, by its last word and its threads' activity."""

from __future__ import annotations

import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.core.processes import Stat
from agentpipe.core.thread_marks import NO_RUN

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.worker.watch.last_word import Said

LOOK_S = 0.25
# On a busy machine the computing thread may rarely get a core.
MAX_LOOKS = 12
# In clock ticks of processor time, a hundredth of a second each.
ENOUGH_TICKS = 10
# Threads that wait for the interpreter poll for it constantly, at low cost.
PART_OF_BUSIEST = 0.5


@dataclass(frozen=True, slots=True)
class ThreadSeen:
    """A thread at one look: whether it is stopped, its processor time, and its wait count."""

    is_stopped: bool
    ticks: int
    waits: int


def culprits_of(said: Said) -> frozenset[int]:
    """Return the places of the runs that froze the worker; empty if none did or it is unknown.

    A run that computes without pause holds the interpreter. If none computes, the culprit is the
    run whose thread is inside a call and does not wait for the interpreter. A process stopped from
    outside has no culprit, unless its loop was executing a run at that moment. A process that the
    system does not schedule at all, such as in a paused container, has none either.
    """
    before = threads_of(said.pid)
    if not before or all(seen.is_stopped for seen in before.values()):
        return _runs_of({said.loop_thread}, said)
    for _ in range(MAX_LOOKS):
        time.sleep(LOOK_S)
        after = threads_of(said.pid)
        ticks = {thread: _spent(before, after, thread) for thread in after}
        most = max(ticks.values(), default=0)
        if most >= ENOUGH_TICKS:
            busy = {thread for thread, spent in ticks.items() if spent >= PART_OF_BUSIEST * most}
            return _runs_of(busy, said) or _only(begun_in(said))
    if before == after:  # Not even the beating thread has polled for the interpreter.
        return frozenset()
    return _only(_runs_of(_quiet(before, after), said)) or _only(begun_in(said))


def executed(said: Said) -> frozenset[int]:
    """The places of the runs that occupied the loop or their own thread."""
    return _runs_of({said.loop_thread, *said.threads}, said)


def _runs_of(threads: set[int], said: Said) -> frozenset[int]:
    """The known places of the runs that these threads work for."""
    places = {said.threads[thread] for thread in threads & said.threads.keys()}
    if said.loop_thread in threads:
        places.add(said.on_loop)
    return frozenset(places - {NO_RUN})


def _quiet(before: Mapping[int, ThreadSeen], after: Mapping[int, ThreadSeen]) -> set[int]:
    """Threads that did not even poll for the interpreter: they are inside a call."""
    return {
        thread
        for thread, seen in after.items()
        if thread in before and before[thread].waits == seen.waits
    }


def _only(places: frozenset[int]) -> frozenset[int]:
    """The place if there is exactly one: among several, all but one would be blamed wrongly."""
    return places if len(places) == 1 else frozenset()


def begun_in(said: Said) -> frozenset[int]:
    """The places of the runs that had begun: any of them can own unmarked threads."""
    return frozenset(place for place, held in said.claims.items() if held.begun)


def _spent(before: Mapping[int, ThreadSeen], after: Mapping[int, ThreadSeen], thread: int) -> int:
    return after[thread].ticks - before[thread].ticks if thread in before else 0


def threads_of(pid: int) -> dict[int, ThreadSeen]:
    """A process's threads by native id; empty if it is gone, or without ``/proc``."""
    found: dict[int, ThreadSeen] = {}
    for folder in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            found[int(folder.name)] = _seen(folder)
    return found


def _seen(folder: Path) -> ThreadSeen:
    stat = Stat.of(folder)
    waits = [line for line in (folder / "status").read_text().splitlines() if "ctxt_switch" in line]
    number_of_waits = int(waits[0].split()[1])  # The voluntary switches come first.
    return ThreadSeen(stat.is_stopped, stat.ticks, number_of_waits)

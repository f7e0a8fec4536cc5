"""Culprits: which runs froze a worker, by its last word and by what its threads do."""

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
# On a busy machine the thread that computes may hardly get a core.
MAX_LOOKS = 12
# Of the clock that the system counts processor time with: a hundredth of a second each.
ENOUGH_TICKS = 10
# Threads that wait for the interpreter look for it all the time, at little cost.
PART_OF_BUSIEST = 0.5


@dataclass(frozen=True, slots=True)
class ThreadSeen:
    """A thread at one look: whether it is stopped, its processor time, how often it has waited."""

    is_stopped: bool
    ticks: int
    waits: int


def culprits_of(said: Said) -> frozenset[int]:
    """The places of the runs that freeze the worker; empty if none of them does, or is known.

    The run that computes without pause holds the interpreter. Where none computes, the one does
    whose thread is in a call and does not wait for the interpreter. A process that was stopped from
    outside has no culprit, unless its loop executed a run at that moment; nor has one that the
    system lets do nothing at all, such as a paused container.
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
    if before == after:  # Not even the thread that beats has looked for the interpreter.
        return frozenset()
    return _only(_runs_of(_quiet(before, after), said)) or _only(begun_in(said))


def executed(said: Said) -> frozenset[int]:
    """The places of the runs that had the loop or a thread of their own."""
    return _runs_of({said.loop_thread, *said.threads}, said)


def _runs_of(threads: set[int], said: Said) -> frozenset[int]:
    """What these threads work for, as far as that is known."""
    places = {said.threads[thread] for thread in threads & said.threads.keys()}
    if said.loop_thread in threads:
        places.add(said.on_loop)
    return frozenset(places - {NO_RUN})


def _quiet(before: Mapping[int, ThreadSeen], after: Mapping[int, ThreadSeen]) -> set[int]:
    """Those that did not even look for the interpreter: they are in a call."""
    return {
        thread
        for thread, seen in after.items()
        if thread in before and before[thread].waits == seen.waits
    }


def _only(places: frozenset[int]) -> frozenset[int]:
    """The one that there is: among several, each but one would be blamed for another."""
    return places if len(places) == 1 else frozenset()


def begun_in(said: Said) -> frozenset[int]:
    """The places of the runs that had begun: any may have threads that no one has marked."""
    return frozenset(place for place, held in said.claims.items() if held.begun)


def _spent(before: Mapping[int, ThreadSeen], after: Mapping[int, ThreadSeen], thread: int) -> int:
    return after[thread].ticks - before[thread].ticks if thread in before else 0


def threads_of(pid: int) -> dict[int, ThreadSeen]:
    """A process's threads by the system's numbers; empty where it is gone, or without ``/proc``."""
    found: dict[int, ThreadSeen] = {}
    for folder in Path(f"/proc/{pid}/task").glob("[0-9]*"):
        with suppress(OSError, ValueError, IndexError):
            found[int(folder.name)] = _seen(folder)
    return found


def _seen(folder: Path) -> ThreadSeen:
    stat = Stat.of(folder)
    waits = [line for line in (folder / "status").read_text().splitlines() if "ctxt_switch" in line]
    number_of_waits = int(waits[0].split()[1])  # The voluntary ones come first.
    return ThreadSeen(stat.is_stopped, stat.ticks, number_of_waits)

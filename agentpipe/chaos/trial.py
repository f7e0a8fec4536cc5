"""A chaos trial: tasks, workers, faults, and the ledger of what happened to the tasks."""

from __future__ import annotations

import os
import random
import threading
import time
from collections import Counter
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.chaos.cuts import cut_of
from agentpipe.chaos.ledger import Ledger, runs_in
from agentpipe.chaos.strikes import Strikes
from agentpipe.chaos.workers import COLLECTION, LEASE_S, PROCESSES, SLOTS, TrialWorkers
from agentpipe.config.collection import load
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from agentpipe.chaos.cuts import Cut
    from agentpipe.chaos.space import Space

BETWEEN_S = 2.0
FREEZE_S = 2 * LEASE_S
# Shorter and longer than a lease.
CUTS_S = (0.2, 1.5 * LEASE_S)
# Run durations are chosen so that the tasks keep most slots busy while faults occur.
BUSY, MIN_RUN_S, MAX_RUN_S = 0.6, 0.05, 2.0
# After this long without a new result, missing tasks count as lost.
PATIENCE_S = 60.0
# A frozen worker can answer late.
LATE_S = 2 * LEASE_S
LOOK_EVERY_S = 0.2


@dataclass(frozen=True, slots=True)
class Plan:
    """Number of tasks and faults."""

    tasks: int = 300
    kills: int = 20
    freezes: int = 3
    broker_cuts: int = 3
    sink_cuts: int = 2

    @property
    def faults(self) -> dict[str, int]:
        """Number of faults by kind."""
        return {
            "kills": self.kills,
            "freezes": self.freezes,
            "broker_cuts": self.broker_cuts,
            "sink_cuts": self.sink_cuts,
        }

    @property
    def run_s(self) -> float:
        """How long each run takes."""
        faults_s = BETWEEN_S * (1 + sum(self.faults.values()))
        return min(MAX_RUN_S, max(MIN_RUN_S, BUSY * PROCESSES * SLOTS * faults_s / self.tasks))


@dataclass(frozen=True, slots=True)
class TrialReport:
    """Result of a trial.

    Attributes:
        faults: Number of faults by kind.
        left_out: Kinds of faults that were not possible, and why.
        repeated: Duplicate records in the stream, which readers drop.
        took_s: Time from the first task to the last result.
    """

    ledger: Ledger
    faults: Mapping[str, int]
    left_out: Mapping[str, str]
    repeated: int
    took_s: float


def run_trial(space: Space, plan: Plan, progress: Callable[[int], None]) -> TrialReport:
    """Run a trial; ``progress`` receives the number of newly answered tasks.

    Raises:
        Unreachable: Broker or sink do not answer, other than during cuts.
        StoreError: Workers do not start, or none serves any more.
    """
    with ExitStack() as stack:
        broker, sink = (stack.enter_context(cut_of(it)) for it in (space.broker, space.sink))
        answers = stack.enter_context(_answers(space, progress))
        workers = TrialWorkers(space.folder, space.settings, tasks=plan.tasks, pause_s=plan.run_s)
        collections = load(workers.collection_file, space.settings.max_queue_size)
        through = replace(space.settings, broker=broker.url, sink=sink.url)
        stack.enter_context(workers.running(through, dict(os.environ), space.lock))
        sender = stack.enter_context(Dispatcher.open(collections, space.settings, results=False))
        watch = stack.enter_context(workers.watched())
        strikes = Strikes(watch.pids)
        stack.callback(strikes.thaw)
        cuts = {"broker_cuts": broker, "sink_cuts": sink}
        left_out = {kind: cut.why_not for kind, cut in cuts.items() if cut.why_not}
        actions: dict[str, Callable[[], None]] = {
            "kills": strikes.kill,
            "freezes": lambda: strikes.freeze(FREEZE_S, workers.supervisor_pid),
            **{kind: partial(_cut, cut) for kind, cut in cuts.items()},
        }
        began = time.monotonic()
        kinds = _order({kind: it for kind, it in plan.faults.items() if kind not in left_out})
        accepted = _cause(kinds, actions, sender, plan.tasks)
        strikes.await_thaw()
        answers.wait_for(accepted)
        took_s = time.monotonic() - began
        time.sleep(LATE_S)
        ledger = Ledger.of(accepted, answers.found, runs_in(workers.journal), strikes.at)
        return TrialReport(ledger, Counter(kinds), left_out, answers.repeated, took_s)


def _order(faults: Mapping[str, int]) -> list[str]:
    kinds = [kind for kind, number in faults.items() for _ in range(number)]
    random.Random(0).shuffle(kinds)  # noqa: S311 - no secret
    return kinds


def _cause(
    kinds: list[str], actions: Mapping[str, Callable[[], None]], sender: Dispatcher, tasks: int
) -> list[str]:
    """Send the tasks in batches, with one fault after each batch; return the task ids."""
    accepted: list[str] = []
    for number, kind in enumerate((*kinds, None), 1):
        wanted = tasks * number // (len(kinds) + 1)
        batch = [{"task_id": f"task-{at}", "question": "q"} for at in range(len(accepted), wanted)]
        accepted += sender.send_many(COLLECTION, batch, on_full="wait").task_ids
        if kind is not None:
            time.sleep(BETWEEN_S)
            actions[kind]()
    return accepted


def _cut(cut: Cut) -> None:
    cut.cut(random.uniform(*CUTS_S))  # noqa: S311 - no secret


class _Answers:
    """Results from the stream, as a reader receives them."""

    def __init__(self, stream: Stream, progress: Callable[[int], None]) -> None:
        self._stream, self._progress = stream, progress
        self.found: list[tuple[str, str]] = []
        self._known: set[str] = set()
        self._new_at = time.monotonic()
        self.ending = threading.Event()

    @property
    def repeated(self) -> int:
        return self._stream.repeated

    def read(self) -> None:
        """Read until the end; the stream stops iterating whenever nothing arrives for a moment."""
        while not self.ending.is_set():
            for result in self._stream:
                self._note(result.task_id, result.outcome)

    def _note(self, task_id: str, outcome: str) -> None:
        self.found.append((task_id, outcome))
        if task_id not in self._known:
            self._known.add(task_id)
            self._new_at = time.monotonic()
            self._progress(1)

    def wait_for(self, accepted: list[str]) -> None:
        """Wait until each task has an answer, or no more arrive."""
        self._new_at = time.monotonic()
        while not self._known.issuperset(accepted):
            if time.monotonic() > self._new_at + PATIENCE_S:
                return
            time.sleep(LOOK_EVERY_S)


@contextmanager
def _answers(space: Space, progress: Callable[[int], None]) -> Iterator[_Answers]:
    with Stream.open(space.settings, timeout_s=LOOK_EVERY_S) as stream:
        answers = _Answers(stream, progress)
        reading = threading.Thread(target=answers.read, name="answers", daemon=True)
        reading.start()
        try:
            yield answers
        finally:
            answers.ending.set()
            reading.join()

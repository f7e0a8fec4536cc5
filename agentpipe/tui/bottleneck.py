"""Flow: which stage holds everything up, and why, in words."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from agentpipe.tui import numbers

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.base import QueueDepth, Stats
    from agentpipe.settings import Marks
    from agentpipe.tui.history import Rates, Snapshot

Stage = Literal["sent", "waiting", "running", "outbox", "delivered", ""]
# Results are carried in batches: so long they may take without a word.
SLOW_SINK_S = 5.0


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where it is held up; no stage where it is not.

    Attributes:
        bad: Somebody should do something about it.
    """

    stage: Stage
    words: str
    bad: bool = False


def verdict_of(now: Snapshot, rates: Rates, marks: Marks) -> Verdict:
    """The first reason that holds, those at the end of the line first: they hold up all before."""
    found = [*_sink(now, marks), *_waiting(now.stats), *_running(now.stats)]
    return next(iter(found), None) or _rest(now, rates)


def _sink(now: Snapshot, marks: Marks) -> Iterator[Verdict]:
    stats = now.stats
    down = [told for told in now.vitals if told.sink_down_s is not None]
    if down:
        longest = max(down, key=lambda told: told.sink_down_s or 0.0)
        since = numbers.duration(longest.sink_down_s)
        words = f"the sink has taken nothing for {since}: {longest.sink_error}"
        yield Verdict("outbox", words, bad=True)
    if marks.reached_by(stats.outbox or 0, stats.outbox_bytes or 0):
        words = "it is at its mark: nothing is claimed until the sink takes results"
        yield Verdict("outbox", words, bad=True)


def _waiting(stats: Stats) -> Iterator[Verdict]:
    queued = [depth for depth in stats.queues if depth.waiting]
    if not queued:
        return
    if not any(worker.slots for worker in stats.workers):
        yield Verdict("waiting", "no worker is up: start some with `agentpipe work`", bad=True)
    kept = [kept_back(depth) for depth in queued]
    if all(kept):
        yield Verdict("waiting", _kept_words(kept, queued), bad="paused" in kept)


def kept_back(depth: QueueDepth) -> str:
    """Why nobody may claim from it, if so."""
    if depth.paused:
        return "paused"
    return "held" if depth.held_s else ""


def _kept_words(kept: Sequence[str], queued: Sequence[QueueDepth]) -> str:
    if "held" not in kept:
        return "all agents with work are paused: p resumes what is chosen"
    soonest = numbers.duration(min(depth.held_s for depth in queued if depth.held_s))
    if "paused" not in kept:
        return f"all agents with work are held, as services asked; {soonest} to go"
    return f"all agents with work are paused, or held; {soonest} to go"


def _running(stats: Stats) -> Iterator[Verdict]:
    slots, running = sum(worker.slots for worker in stats.workers), stats.running or 0
    ready = [depth for depth in stats.queues if depth.waiting and not kept_back(depth)]
    if not ready or not slots:
        return
    if running >= slots:
        yield Verdict("running", f"all {slots:,} slots are busy, more workers would run more")
    if all((depth.running or 0) >= depth.concurrency for depth in ready):
        yield Verdict("running", "each agent with work runs as many as it may")
    if not running:
        words = "workers are up and run nothing: do they serve these agents?"
        yield Verdict("waiting", words, bad=True)


def _rest(now: Snapshot, rates: Rates) -> Verdict:
    stats = now.stats
    if (now.sink_lag_s or 0.0) > SLOW_SINK_S:
        return Verdict("outbox", "the sink is slower than the agents")
    if stats.waiting:
        return Verdict("", "tasks are taken up as they come")
    if stats.running:
        return Verdict("", "all that was sent is running or done")
    if stats.delayed:
        return Verdict("waiting", "what failed waits for its next try")
    return Verdict("", "all that was sent is done" if rates.ended else "there is nothing to do")

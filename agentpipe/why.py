"""Why: from all that a store tells of a task to the one reason that it is not done.

Pure: the same facts at the same moment give the same verdict. What stands first in a list of
reasons hides the others: an agent that is paused would not be served by any worker anyway.
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from agentpipe.task import utc

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agentpipe.brokers.store import AgentSeen, Run, Whereabouts, WorkerSeen

State = Literal[
    "waiting", "delayed", "running", "outbox", "dead", "settled", "delivered", "unknown"
]
Reason = Literal[
    "agent_paused",
    "collection_paused",
    "no_worker",
    "outbox_full",
    "agent_held",
    "gate_full",
    "agent_busy",
    "behind",
    "next",
    "retry",
    "delay",
    "running",
    "ending",
    "not_forwarded",
    "dead",
    "settled",
    "delivered",
    "unknown",
    "unsure",
]
MAX_NAMED = 3
MINUTE_S, HOUR_S = 120, 7_200


@dataclass(frozen=True, slots=True)
class Marks:
    """Of the outbox: where workers stop to claim.

    Attributes:
        size: In bytes.
    """

    records: int
    size: int


@dataclass(frozen=True, slots=True)
class Verdict:
    """Where a task is and why.

    Attributes:
        sentence: The same for people.
        since: Unix seconds; since when it is so, where that is known.
        next: What happens next, or what to do.
        details: What the sentence was made of.
    """

    task_id: str
    state: State
    reason: Reason
    sentence: str
    since: float | None = None
    next: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The JSON of ``agentpipe why``."""
        record = asdict(self)
        details = record.pop("details")
        return {**record, "since": self.since and utc(self.since), **details}


@dataclass(frozen=True, slots=True)
class _Told:
    reason: Reason
    sentence: str
    next: str
    since: float | None = None


def verdict(
    facts: Whereabouts, now: float, marks: Marks, stream_position: int | None = None
) -> Verdict:
    """The verdict of these facts; ``stream_position`` is where the sink has its Result."""
    judge = _JUDGES[facts.place]
    if facts.place in ("settled", "unknown") and stream_position is not None:
        return _delivered(facts, stream_position, now)
    return judge(facts, now, marks)


def _delivered(facts: Whereabouts, position: int, now: float) -> Verdict:
    at = "" if facts.since is None else f", settled {_ago(facts.since, now)}"
    sentence = f"it is delivered: its Result is record {position} of the stream{at}"
    details = {"stream_position": position}
    what = "read it: agentpipe tail --from beginning"
    return Verdict(facts.task_id, "delivered", "delivered", sentence, facts.since, what, details)


def _settled(facts: Whereabouts, now: float, _: Marks) -> Verdict:
    assert facts.since is not None
    sentence = f"it was settled {_ago(facts.since, now)} and its Result delivered to the sink"
    what = "read it: agentpipe tail --from beginning"
    return Verdict(facts.task_id, "settled", "settled", sentence, facts.since, what)


def _waiting(facts: Whereabouts, now: float, marks: Marks) -> Verdict:
    assert facts.agent is not None
    told = _why_waiting(facts.agent, facts, now, marks)
    place = f"it waits at {facts.agent.queue}"
    if facts.position is not None:
        place += f", {facts.position:,} of {facts.agent.waiting:,}"
    if facts.failures or facts.crashes:
        place += f", after {_tries(facts)}"
    details = {**_of_agent(facts), "position": facts.position, "waiting": facts.agent.waiting}
    details["estimate_s"] = _estimate_s(facts.agent, facts.position, now)
    return Verdict(
        facts.task_id,
        "waiting",
        told.reason,
        f"{place}: {told.sentence}",
        told.since or facts.submitted_at,
        told.next,
        details,
    )


def _why_waiting(agent: AgentSeen, facts: Whereabouts, now: float, marks: Marks) -> _Told:
    for look in (_if_paused, _if_unserved, _if_held):
        if (told := look(agent, facts)) is not None:
            return told
    if facts.outbox >= marks.records or facts.outbox_bytes >= marks.size:
        return _Told(
            "outbox_full",
            f"workers claim nothing, {facts.outbox:,} results wait for the sink",
            "see why the sink takes none: the workers' logs say so",
            facts.outbox_since,
        )
    for look_at in (_if_gate_full, _if_busy):
        if (told := look_at(agent, facts.position, now)) is not None:
            return told
    if facts.position is not None and facts.position > 1:
        return _Told(
            "behind", f"{facts.position - 1:,} are before it", _estimate(agent, facts, now)
        )
    return _Told("next", "it is to be claimed next", "a worker with a free slot claims it")


def _if_paused(agent: AgentSeen, _: Whereabouts) -> _Told | None:
    if agent.paused:
        name = agent.queue
        return _Told("agent_paused", "its agent is paused", f"agentpipe resume {name}")
    if agent.collection_paused:
        name = str(agent.collection)
        sentence = f"its collection {name} is paused"
        return _Told("collection_paused", sentence, f"agentpipe resume {name}")
    return None


def _if_unserved(agent: AgentSeen, facts: Whereabouts) -> _Told | None:
    if agent.servers is None or agent.servers:
        return None
    up = f"up are {_workers(facts.workers)}" if facts.workers else "none is up at all"
    sentence = f"no worker serves {agent.queue}, {up}"
    return _Told("no_worker", sentence, "start workers with its collection file: agentpipe work")


def _if_held(agent: AgentSeen, facts: Whereabouts) -> _Told | None:
    if agent.held_s <= 0:
        return None
    why = f", after {facts.error}" if facts.error else ""
    sentence = f"its agent's service asked to be left alone for {_duration(agent.held_s)} more{why}"
    return _Told("agent_held", sentence, f"it is claimed from again in {_duration(agent.held_s)}")


def _if_gate_full(agent: AgentSeen, _: int | None, now: float) -> _Told | None:
    if agent.gate_limit is None or len(agent.gate_runs) < agent.gate_limit:
        return None
    if len(agent.runs) >= agent.concurrency:
        return None  # Its own limit says more.
    used = _runs(agent.gate_runs, now)
    sentence = f"its context may be used {agent.gate_limit} at a time, and is, by {used}"
    return _Told(
        "gate_full", sentence, "it may run when one of these ends", _first(agent.gate_runs)
    )


def _if_busy(agent: AgentSeen, position: int | None, now: float) -> _Told | None:
    if not agent.runs or len(agent.runs) < agent.concurrency:
        return None
    sentence = f"its agent is busy with {_runs(agent.runs, now)}"
    estimate = _estimate_of(_estimate_s(agent, position, now))
    return _Told("agent_busy", sentence, estimate, _first(agent.runs))


def _estimate(agent: AgentSeen, facts: Whereabouts, now: float) -> str:
    return _estimate_of(_estimate_s(agent, facts.position, now))


def _estimate_of(seconds: float | None) -> str:
    if seconds is None:
        return "it is claimed in its turn"
    return f"it begins in about {_duration(seconds)}, as its agent's runs took lately"


def _estimate_s(agent: AgentSeen, position: int | None, now: float) -> float | None:
    """When it begins, if runs take as long as lately, and nothing but its agent's limit counts."""
    if agent.run_s is None or position is None:
        return None
    abreast = min(agent.concurrency, agent.gate_limit or agent.concurrency)
    free = max(0, abreast - len(agent.runs))
    rounds = math.ceil(max(0, position - free) / abreast)
    begun = _first(agent.runs)
    gone_s = 0.0 if begun is None or not rounds else min(agent.run_s, now - begun)
    return round(max(0.0, rounds * agent.run_s - gone_s), 1)


def _delayed(facts: Whereabouts, now: float, _: Marks) -> Verdict:
    left = "" if facts.due_at is None else f" for {_duration(max(0.0, facts.due_at - now))} more"
    details = {**_of_agent(facts), "due_at": facts.due_at and utc(facts.due_at)}
    if not facts.failures:
        sentence, reason = f"it is delayed{left}, as its sender wanted", "delay"
    else:
        error = f"; the last error: {facts.error}" if facts.error else ""
        sentence, reason = f"it is delayed{left} after {_tries(facts)}{error}", "retry"
    what = "it waits in its queue again when that is over; `cancel` takes it back"
    return Verdict(
        facts.task_id,
        "delayed",
        reason,  # type: ignore[arg-type]
        sentence,
        facts.submitted_at,
        what,
        details,
    )


def _running(facts: Whereabouts, now: float, _: Marks) -> Verdict:
    run = facts.run
    where = "a worker has it" if run is None else f"{run.worker} runs it"
    since = None if run is None else run.since
    sentence = where if since is None else f"{where}, since {_duration(max(0.0, now - since))}"
    if facts.failures or facts.crashes:
        sentence += f", after {_tries(facts)}"
    details = {**_of_agent(facts), "worker": run and run.worker}
    if facts.cancelled:
        sentence += "; it was cancelled and is told to end"
        what = "its Result follows, `cancelled` unless it finishes first"
        return Verdict(facts.task_id, "running", "ending", sentence, since, what, details)
    what = "it ends by itself or at its time limit; `cancel` ends it now"
    return Verdict(facts.task_id, "running", "running", sentence, since, what, details)


def _in_outbox(facts: Whereabouts, now: float, _: Marks) -> Verdict:
    before = facts.outbox_before or 0
    sentence = f"it is done, and its Result waits for the sink with {before:,} before it"
    if facts.outbox_since is not None:
        sentence += f"; the oldest since {_duration(max(0.0, now - facts.outbox_since))}"
    what = "the workers forward it once the sink takes results: their logs say what is wrong"
    if not facts.workers:
        what = "no worker is up to forward it: agentpipe work"
    details = {**_of_agent(facts), "outbox_before": before, "outbox": facts.outbox}
    since = facts.since
    return Verdict(facts.task_id, "outbox", "not_forwarded", sentence, since, what, details)


def _dead(facts: Whereabouts, now: float, _: Marks) -> Verdict:
    at = "" if facts.since is None else f" {_ago(facts.since, now)}"
    sentence = f"it was given up{at} as {facts.outcome}: {facts.error}"
    if facts.outbox_before is not None:
        sentence += f"; its Result waits for the sink with {facts.outbox_before:,} before it"
    what = f"agentpipe dead show {facts.task_id}, then dead replay or dead drop"
    details = {**_of_agent(facts), "outcome": facts.outcome}
    return Verdict(facts.task_id, "dead", "dead", sentence, facts.since, what, details)


def _unknown(facts: Whereabouts, now: float, marks: Marks) -> Verdict:
    if facts.complete:
        sentence = "it was never seen here, or was settled longer ago than ids are remembered"
        what = "look for its Result: agentpipe tail --from beginning"
        return Verdict(facts.task_id, "unknown", "unknown", sentence, next=what)
    sentence = (
        "no worker has it and it is no dead letter; this broker cannot tell whether it waits, is "
        "delayed, is done or was never seen"
    )
    maybe = {it.queue: _why_waiting(it, facts, now, marks) for it in facts.candidates}
    if maybe:
        each = [f"at {queue} {told.sentence}" for queue, told in maybe.items()]
        sentence += f". If it waits: {_listed(each)}"
    what = "look for its Result: agentpipe tail --from beginning; see status"
    found = [{"agent": queue, "reason": told.reason} for queue, told in maybe.items()]
    details = {"candidates": found, "outbox": facts.outbox}
    return Verdict(facts.task_id, "unknown", "unsure", sentence, next=what, details=details)


_JUDGES: dict[str, Callable[[Whereabouts, float, Marks], Verdict]] = {
    "waiting": _waiting,
    "delayed": _delayed,
    "running": _running,
    "outbox": _in_outbox,
    "dead": _dead,
    "settled": _settled,
    "unknown": _unknown,
}


def _of_agent(facts: Whereabouts) -> dict[str, Any]:
    agent = facts.agent
    return {
        "agent": agent and agent.queue,
        "collection": agent and agent.collection,
        "failures": facts.failures,
        "crashes": facts.crashes,
        "error": facts.error or None,
        "runs": [_told_of(run) for run in (agent.runs if agent else ())],
        "gate_runs": [_told_of(run) for run in (agent.gate_runs if agent else ())],
    }


def _told_of(run: Run) -> dict[str, Any]:
    return {
        "task_id": run.task_id,
        "agent": run.queue,
        "worker": run.worker,
        "since": run.since and utc(run.since),
    }


def _first(runs: Iterable[Run]) -> float | None:
    return min((run.since for run in runs if run.since is not None), default=None)


def _tries(facts: Whereabouts) -> str:
    parts = [f"{facts.failures} failures"] if facts.failures else []
    parts += [f"{facts.crashes} crashes"] if facts.crashes else []
    return " and ".join(parts)


def _runs(runs: Sequence[Run], now: float) -> str:
    return _listed([_run(run, now) for run in runs])


def _run(run: Run, now: float) -> str:
    since = "" if run.since is None else f" since {_duration(max(0.0, now - run.since))}"
    return f"{run.task_id}{since} on {run.worker}"


def _workers(workers: Sequence[WorkerSeen]) -> str:
    return _listed([f"{it.name} (heard {_duration(it.seen_s)} ago)" for it in workers])


def _listed(names: Sequence[str]) -> str:
    more = len(names) - MAX_NAMED
    return "; ".join([*names[:MAX_NAMED], *([f"{more} more"] if more > 0 else [])])


def _ago(moment: float, now: float) -> str:
    return f"{_duration(max(0.0, now - moment))} ago"


def _duration(seconds: float) -> str:
    if seconds < MINUTE_S:
        return f"{seconds:.0f} s"
    if seconds < HOUR_S:
        return f"{seconds / 60:.0f} min"
    return f"{seconds / 3600:.1f} h"

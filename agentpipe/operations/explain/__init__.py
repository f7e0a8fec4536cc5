"""Finds the one reason why a task is not done. Pure function of the facts."""

from __future__ import annotations

import shlex
from dataclasses import asdict, replace
from typing import TYPE_CHECKING

from agentpipe.core.text import counted, duration
from agentpipe.operations.explain.details import details_of
from agentpipe.operations.explain.phrases import (
    ago,
    group_sentence,
    lasting,
    listed,
    reading,
    sink_trouble,
)
from agentpipe.operations.explain.reason import Cause, Explanation, Reason, State
from agentpipe.operations.explain.waiting import because_ahead, why_waiting
from agentpipe.worker.outcomes.left_alone import OTHER_CONFIG

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.location import GroupSeen, TaskLocation
    from agentpipe.settings import OutboxLimits

__all__ = ["Explanation", "Reason", "State", "explain"]

# If the broker cannot search its queues: for how many agents the next steps are listed.
MAX_CANDIDATES = 3


def explain(
    facts: TaskLocation, now: float, limits: OutboxLimits, stream_position: int | None = None
) -> Explanation:
    """Explain a task; ``stream_position`` is the position of its Result in the sink, if known."""
    if facts.place in ("settled", "unknown") and stream_position is not None:
        state: State = "delivered"
        cause = _delivered(facts, stream_position, now)
    else:
        state = facts.place
        cause = _EXPLAINERS[facts.place](facts, now, limits)
    if facts.group is not None:
        cause = replace(cause, sentence=f"{cause.sentence}; {group_sentence(facts.group)}")
    details = details_of(facts, cause.reason, now, limits, stream_position)
    said = cause.reason, cause.sentence, cause.next, cause.since
    return Explanation(facts.task_id, state, *said, details)


def explain_group(group: GroupSeen, member: Explanation) -> Explanation:
    """What a group waits for: a member that has not ended, explained without its group."""
    sentence = f"{group_sentence(group)}. It waits for {member.task_id}, {member.sentence}"
    details = {**member.details, "group": asdict(group)}
    return replace(member, task_id=group.group_id, state="open", sentence=sentence, details=details)


def _delivered(facts: TaskLocation, position: int, now: float) -> Cause:
    settled = f", settled{ago(facts.since, now)}" if facts.since is not None else ""
    sentence = f"it is delivered: its Result is record {position:,} of the stream{settled}"
    # A sink that knows a Result's position can be searched.
    shown = f"read it: agentpipe show {shlex.quote(facts.task_id)}"
    return Cause("delivered", sentence, shown, facts.since)


def _settled(facts: TaskLocation, now: float, _: OutboxLimits) -> Cause:
    sentence = f"it was settled{ago(facts.since, now)}, and the sink has confirmed its Result"
    what = f"read it: {reading(facts.task_id, facts.since)}"
    return Cause("settled", sentence, what, facts.since)


def _waiting(facts: TaskLocation, now: float, limits: OutboxLimits) -> Cause:
    assert facts.agent is not None
    cause = why_waiting(facts.agent, facts, now, limits)
    place = f"waiting{lasting(facts.submitted_at, now)} at {facts.agent.queue}"
    if facts.position is not None:
        place += f", position {facts.position:,} of {facts.agent.waiting:,}"
    place += _after_tries(facts)
    if facts.cancelled:
        place += ", cancelled and will not run"
    since = cause.since or facts.submitted_at
    return replace(cause, sentence=f"{place}: {cause.sentence}", since=since)


def _delayed(facts: TaskLocation, now: float, limits: OutboxLimits) -> Cause:
    left_s = None if facts.due_at is None else facts.due_at - now
    if facts.error.startswith(OTHER_CONFIG):
        return _left_for_others(facts, left_s)
    if facts.policy is not None:
        return because_ahead(facts.policy)
    obstacle = _obstacle(facts, now, limits)
    if left_s is None and obstacle and obstacle.reason == "budget_spent":
        return obstacle
    if left_s is not None and left_s <= 0:
        sentence = f"its delay ended{ago(facts.due_at, now)}{_after_tries(facts)}"
        what = obstacle.next if obstacle else "a worker claims it now"
    else:
        left = "" if left_s is None else f" for another {duration(left_s)}"
        sentence = f"it is delayed{left}{_after_tries(facts) or ', as requested by its sender'}"
        what = "it then returns to its queue; agentpipe cancel ends it"
    if facts.error:
        sentence += f"; the last error: {facts.error}"
    if obstacle:
        sentence += f"; then it would still wait: {obstacle.sentence}"
    reason: Reason = "retry" if facts.failures or facts.crashes else "delay"
    return Cause(reason, sentence, what)


def _left_for_others(facts: TaskLocation, left_s: float | None) -> Cause:
    """Explain a task whose config its workers do not have."""
    again = f"; workers look at it again in {duration(left_s)}" if left_s and left_s > 0 else ""
    sentence = f"the workers leave it alone, as strict_config asks: {facts.error}{again}"
    what = (
        "start workers with the sender's config, give each project a ?prefix= of its own in the "
        "broker's URL, or cancel it and send it again"
    )
    return Cause("other_config", sentence, what)


def _obstacle(facts: TaskLocation, now: float, limits: OutboxLimits) -> Cause | None:
    """What would keep it waiting after its delay, unless that passes by itself."""
    cause = None if facts.agent is None else why_waiting(facts.agent, facts, now, limits)
    lasts = ("agent_paused", "collection_paused", "budget_spent", "no_worker", "outbox_full")
    return cause if cause and cause.reason in lasts else None


def _running(facts: TaskLocation, now: float, _: OutboxLimits) -> Cause:
    run, tries = facts.run, _after_tries(facts)
    worker, since = (run.worker, run.since) if run else ("a worker", None)
    if run and worker not in {it.name for it in facts.workers}:
        return _left_alone(facts, now)
    sentence = f"{worker} has been running it{lasting(since, now)}{tries}"
    if facts.cancelled:
        sentence += "; it was cancelled and has been signalled"
        what = "its Result follows, `cancelled` unless it finishes first"
        return Cause("ending", sentence, what, since)
    if facts.held_by:
        sentence += f"; policy {facts.held_by} is paused: its requests wait"
        what = f"they go on with the next version, or by: agentpipe policy resume {facts.held_by}"
        return Cause("policy_paused", sentence, what, since)
    what = "it ends by itself or at its time limit; agentpipe cancel ends it now"
    return Cause("running", sentence, what, since)


def _left_alone(facts: TaskLocation, now: float) -> Cause:
    assert facts.run is not None
    begun = f"; it started the task{ago(facts.run.since, now)}" if facts.run.since else ""
    sentence = f"its worker {facts.run.worker} has died or hangs{begun}{_after_tries(facts)}"
    what = "the next worker puts it back and counts a crash"
    if not facts.workers:
        what = "no worker is running to put it back: agentpipe work"
    return Cause("worker_gone", sentence, what, facts.run.since)


def _in_outbox(facts: TaskLocation, _now: float, _: OutboxLimits) -> Cause:
    sentence = f"it is done, and {_on_its_way(facts)}"
    return Cause("not_forwarded", sentence, _forwarding(facts), facts.since)


def _on_its_way(facts: TaskLocation) -> str:
    sentence = f"its Result waits for the sink with {facts.outbox_before or 0:,} before it"
    trouble = sink_trouble(facts.workers)
    return f"{sentence}; {trouble}" if trouble else sentence


def _forwarding(facts: TaskLocation) -> str:
    if not facts.workers:
        return "no worker is running to forward it: agentpipe work"
    if sink_trouble(facts.workers):
        return "repair the sink: workers retry by themselves, and nothing runs twice"
    return "a worker forwards it in a moment; if not, see its log"


def _dead(facts: TaskLocation, now: float, _: OutboxLimits) -> Cause:
    name = shlex.quote(facts.task_id)
    sentence = f"it became a dead letter{ago(facts.since, now)} as {facts.outcome}: {facts.error}"
    what = (
        f"agentpipe dead show {name}; then agentpipe dead replay {name} runs it again as a new "
        f"task, agentpipe dead drop {name} deletes it"
    )
    if facts.outbox_before is not None:
        sentence += f"; {_on_its_way(facts)}"
    return Cause("dead", sentence, what, facts.since)


def _unknown(facts: TaskLocation, now: float, limits: OutboxLimits) -> Cause:
    where = reading(facts.task_id, None)
    what = f"check the id and the broker; if it is done, this prints its Result: {where}"
    if not facts.complete:
        return _unsure(facts, now, limits)
    sentence = (
        "this broker does not know it: it was never accepted here, or its id is past the retention "
        "time"
    )
    return Cause("unknown", sentence, what)


def _unsure(facts: TaskLocation, now: float, limits: OutboxLimits) -> Cause:
    sentence = f"no worker has it and {_no_letter(facts)}. {_possibilities(facts)}"
    cause = {it.queue: why_waiting(it, facts, now, limits) for it in facts.candidates}
    each = [f"at {queue} {why.sentence}" for queue, why in cause.items()]
    if each:
        sentence += f". If it waits: {listed(each)}"
    if facts.outbox and (trouble := sink_trouble(facts.workers)):
        sentence += f". Of the sink: {trouble}"
    steps = dict.fromkeys(why.next for why in [*cause.values()][:MAX_CANDIDATES])
    what = f"if it is done, this prints its Result: {reading(facts.task_id, None)}"
    if steps:
        what = f"if it waits: {listed([*steps])}. {what[0].upper()}{what[1:]}"
    return Cause("unsure", sentence, what)


def _no_letter(facts: TaskLocation) -> str:
    if facts.dead_unread:
        dead = counted(facts.dead_unread, "dead letter")
        return f"it may be one of the {dead} (agentpipe dead show reads them)"
    return "it is not a dead letter"


def _possibilities(facts: TaskLocation) -> str:
    """Where the task may be, given the broker's counts."""
    found = [f"wait ({facts.unclaimed:,} do)"] if facts.unclaimed else []
    found += [f"be delayed ({facts.delayed:,} are)"] if facts.delayed else []
    found += [f"be done and wait for the sink ({facts.outbox:,} do)"] if facts.outbox else []
    if not found:
        return "Nothing waits, is delayed or is in the outbox: it is done, or was never sent here"
    last = "have been delivered, or never have been sent here"
    cannot = "This broker cannot look into its queues for one task"
    return f"{cannot}: it may {', '.join(found)}, {last}"


def _after_tries(facts: TaskLocation) -> str:
    parts = [counted(facts.failures, "failure")] if facts.failures else []
    parts += [counted(facts.crashes, "crash")] if facts.crashes else []
    return f", after {' and '.join(parts)}" if parts else ""


_EXPLAINERS: dict[str, Callable[[TaskLocation, float, OutboxLimits], Cause]] = {
    "waiting": _waiting,
    "delayed": _delayed,
    "running": _running,
    "outbox": _in_outbox,
    "dead": _dead,
    "settled": _settled,
    "unknown": _unknown,
}

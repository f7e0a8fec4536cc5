"""Members: what a settlement reports about a task that is counted in a group."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.records import MemberEnd, Offer
from agentpipe.core.groups import UNJUDGED, is_good, repair_of, versions_of

if TYPE_CHECKING:
    from agentpipe.core.result import Result
    from agentpipe.core.task import Task
    from agentpipe.worker.running.message import ClaimedMessage


def member_end(message: ClaimedMessage, result: Result) -> MemberEnd | None:
    """How the task's part in its group ended; None if it is in no counted group."""
    task = message.task
    if task is None or task.group_need is None:
        return None
    if is_good(result):
        return MemberEnd(good=True, versions=versions_of([result]))
    # A trustworthy reward of a member that is not good: its answer lacks token ids.
    is_repaired = result.outcome in UNJUDGED or result.reward_trustworthy
    return MemberEnd(repair=_repair(task) if is_repaired else None)


def _repair(task: Task) -> Offer | None:
    again = repair_of(task)
    if again is None:
        return None
    return Offer(again.task_id, again.encode(), again.priority, group_id=again.group_id)

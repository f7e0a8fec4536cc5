"""Describes in one clause where a task is."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import LocatesTasks
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    from agentpipe.brokers.base import Store
    from agentpipe.brokers.location import TaskLocation


def place_text(store: Store, task_id: str) -> str:
    """Where the store has the task, and how to learn more."""
    if not isinstance(store, LocatesTasks):
        return "this broker cannot tell where it is"
    try:
        location = store.locate(task_id)
    except AgentpipeError as error:
        return f"where it is cannot be found out: {error}"
    return f"{_clause(location)}; see: agentpipe why {task_id}"


def _clause(location: TaskLocation) -> str:
    if location.place == "waiting":
        return _waiting(location)
    if location.place == "running":
        worker = location.run.worker if location.run else "a worker"
        return f"{worker} runs it"
    return {
        "delayed": "it is delayed",
        "outbox": "it is done, and its result waits in the outbox for the sink",
        "dead": f"it is a dead letter ({location.outcome})",
        "settled": "it is settled: its result was published where this reader did not see it",
        "unknown": "the broker does not know where it is",
    }[location.place]


def _waiting(location: TaskLocation) -> str:
    agent = location.agent
    text = f"it waits in the queue of {agent.queue}" if agent else "it waits"
    return f"{text}, which no worker serves" if agent and agent.servers == () else text

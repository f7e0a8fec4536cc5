"""Why a loop receives no group, as far as a snapshot of the broker shows. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.breaker import remedy

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from agentpipe.brokers.statistics import Stats
    from agentpipe.core.policy import PolicyState


def obstacles(stats: Stats, collection: str, policy: str | None) -> Iterator[str]:
    """Obstacles that do not go away by themselves: one sentence each, with the remedy."""
    for state in stats.policies:
        if state.name == policy:
            yield from _of_policy(state)
    queues = [it for it in stats.queues if it.collection == collection]
    if queues and all(it.paused for it in queues):
        reason = next((f": {it.pause_reason}" for it in queues if it.pause_reason), "")
        yield f"its collection {collection!r} is paused{reason}; {remedy(collection)}"
    if not any(it.slots for it in stats.workers):
        yield "no worker is running: `agentpipe work` with its collection file"


def uses_none(counts: Mapping[str, int], run: str) -> str:
    """Why a loop has no group for its trainer, although groups have ended."""
    fates = ", ".join(f"{number:,} {fate}" for fate, number in sorted(counts.items()) if number)
    return (
        f"{fates}. In a flat group all rewards are equal; in a short one members have none: they "
        f"failed, or their task has no evaluators. `agentpipe report --run {run}` says more"
    )


def _of_policy(state: PolicyState) -> Iterator[str]:
    name = state.name
    if state.paused:
        yield (
            f"its policy {name!r} is paused: give its servers the weights, then "
            f"policy.update(version), or `agentpipe policy resume {name}`"
        )
    if state.room is not None and state.room <= 0 and not state.running:
        yield (
            f"its policy {name!r} has version {state.version}, by which no more groups may begin, "
            f"and none runs. Let its `batch` of {state.spec.batch} be the groups of a step of all "
            "trainers that follow it, or give each a policy of its own"
        )

"""Assignment: which worker serves which agent. A pure function.

All workers that have heard of the same members come to the same shares. Where their views differ
the server's exclusive queues decide: only the owner of an agent's lock serves it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from agentpipe.brokers.rabbitmq.rpc import Member


def share_of(name: str, members: Iterable[Member], unit_of: Callable[[str], str] = str) -> set[str]:
    """The queues that the member ``name`` serves: about as many as its slots are of all slots.

    Queues of one unit go to one member, one that serves all of them if there is one: the queues
    that it does not serve are left out.
    """
    members = sorted(members, key=lambda member: member.name)
    units: dict[str, set[str]] = defaultdict(set)
    for queue in {queue for member in members for queue in member.queues}:
        units[unit_of(queue)].add(queue)
    candidates: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for unit in sorted(units):
        candidates[_candidates(members, units[unit])].append(unit)
    mine = next(index for index, member in enumerate(members) if member.name == name)
    share: set[str] = set()
    for indices, theirs in candidates.items():
        if mine in indices:
            slots = [max(1, members[index].slots) for index in indices]
            for unit in _part(indices.index(mine), slots, theirs):
                share |= units[unit]
    return share & members[mine].queues


def _candidates(members: Sequence[Member], queues: set[str]) -> tuple[int, ...]:
    """The members that serve all of a unit's queues, or else any of them."""
    whole = [index for index, member in enumerate(members) if queues <= member.queues]
    return tuple(whole) or tuple(
        index for index, member in enumerate(members) if queues & member.queues
    )


def _part(index: int, slots: Sequence[int], units: list[str]) -> list[str]:
    """The consecutive part of ``units`` that falls to one of the members, by their slots."""
    before, total = sum(slots[:index]), sum(slots)
    first = round(len(units) * before / total)
    return units[first : round(len(units) * (before + slots[index]) / total)]

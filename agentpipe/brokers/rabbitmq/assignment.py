"""Assignment: which worker serves which agent. A pure function.

An agent stays with the worker that serves it, within that worker's share. Each handover has to wait
until nothing of the agent runs, and its prefetched tasks lose their places in the queue. So the end
of one worker moves only its own agents.

Workers with the same view of the members compute the same shares. If their views differ, the
server decides: only the connection that has an agent's lock serves it.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from agentpipe.brokers.rabbitmq.rpc import Member


def share_of(name: str, members: Iterable[Member], unit_of: Callable[[str], str] = str) -> set[str]:
    """The queues that the member ``name`` serves, in proportion to its slots.

    All queues of a unit go to one member, if possible to one that can serve them all; queues that
    it cannot serve are left out.
    """
    members = sorted(members, key=lambda member: member.name)
    units: dict[str, set[str]] = defaultdict(set)
    for queue in {queue for member in members for queue in member.queues}:
        units[unit_of(queue)].add(queue)
    candidates: dict[tuple[int, ...], list[str]] = defaultdict(list)
    for unit in sorted(units):
        candidates[_candidates(members, units[unit])].append(unit)
    me = next(member for member in members if member.name == name)
    owned = {member.name: {unit_of(queue) for queue in member.owned} for member in members}
    share: set[str] = set()
    for indices, theirs in candidates.items():
        serving = [members[index] for index in indices]
        if me in serving:
            share.update(*(units[unit] for unit in _shares(serving, theirs, owned)[name]))
    return share & me.queues


def _candidates(members: Sequence[Member], queues: set[str]) -> tuple[int, ...]:
    """The members that serve all of a unit's queues, or else any of them."""
    whole = [index for index, member in enumerate(members) if queues <= member.queues]
    return tuple(whole) or tuple(
        index for index, member in enumerate(members) if queues & member.queues
    )


def _shares(
    members: Sequence[Member], units: Sequence[str], owned: Mapping[str, set[str]]
) -> dict[str, list[str]]:
    """The units of each member: first those that it already owns, then unowned ones."""
    there = set(units)
    theirs = {member.name: sorted(owned[member.name] & there) for member in members}
    room = _parts(members, len(units), {name: len(its) for name, its in theirs.items()})
    shares: dict[str, list[str]] = {}
    kept: set[str] = set()
    for name, its in theirs.items():
        shares[name] = [unit for unit in its if unit not in kept][: room[name]]
        kept.update(shares[name])
    left = iter([unit for unit in units if unit not in kept])
    for name, share in shares.items():
        share.extend(unit for _, unit in zip(range(room[name] - len(share)), left, strict=False))
    return shares


def _parts(members: Sequence[Member], units: int, owned: Mapping[str, int]) -> dict[str, int]:
    """The number of units per member, by slots; among equals, the largest owner gets one more."""
    slots = {member.name: max(1, member.slots) for member in members}
    total = sum(slots.values())
    parts = {name: units * its // total for name, its in slots.items()}
    odd = units - sum(parts.values())
    order = sorted(slots, key=lambda name: (-(units * slots[name] % total), -owned[name], name))
    return parts | {name: parts[name] + 1 for name in order[:odd]}

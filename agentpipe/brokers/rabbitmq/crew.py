"""Crew: the workers that hear of each other, and which of them serves which agent.

Each tells the others when it comes, when it goes and what it serves; everybody who hears the
same comes to the same shares. The server's exclusive queues decide where views differ: an agent
is served only by who holds its lock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence


@dataclass(frozen=True, slots=True)
class Member:
    """A worker, as it tells of itself.

    Attributes:
        address: Its own queue, gone as soon as its connection is.
        queues: What it could serve.
        owned: What it serves.
        running: Its claims, by queue.
        prefetched: What was delivered to it and not claimed, by queue.
        lent: How many results it is carrying to the sink.
        held: For how many seconds nobody claims from which queues, as it has heard.
        known: How many workers it knows, itself among them.
        tallies: What it has settled, by queue. This and what follows is told in a roll call only.
        outcomes: Of these tasks.
        recent: How many of them ended lately.
        report: What it told of itself when it last renewed its lease.
        heard_s: How long ago that was.
    """

    name: str
    address: str
    host: str = ""
    pid: int = 0
    slots: int = 0
    queues: frozenset[str] = frozenset()
    owned: frozenset[str] = frozenset()
    running: Mapping[str, int] = field(default_factory=dict)
    prefetched: Mapping[str, int] = field(default_factory=dict)
    lent: int = 0
    known: int = 1
    held: Mapping[str, float] = field(default_factory=dict)
    tallies: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    outcomes: Mapping[str, int] = field(default_factory=dict)
    recent: int = 0
    report: str = ""
    heard_s: float = 0.0

    def encode(self, **more: Any) -> bytes:
        """As it goes over the wire."""
        record = {name: getattr(self, name) for name in self.__slots__}
        lists = {"queues": sorted(self.queues), "owned": sorted(self.owned)}
        return orjson.dumps(record | lists | more)

    @classmethod
    def decode(cls, record: Mapping[str, Any]) -> Self:
        """What ``encode`` wrote; later versions may tell more."""
        fields = {name: record[name] for name in cls.__slots__ if name in record}
        fields["queues"] = frozenset(fields["queues"])
        fields["owned"] = frozenset(fields["owned"])
        return cls(**fields)


def share_of(name: str, members: Iterable[Member], unit_of: Callable[[str], str] = str) -> set[str]:
    """The queues that the member ``name`` is to serve: about as many as its slots are of all.

    Depends on nothing but the members, so that all of them come to the same result. Queues of one
    unit go to one member, who should serve all of them: those that it does not nobody serves.
    """
    members = sorted(members, key=lambda member: member.name)
    mine = next(member.queues for member in members if member.name == name)
    servers: dict[str, list[Member]] = defaultdict(list)
    for member in members:
        for queue in member.queues:
            servers[queue].append(member)
    units: dict[str, list[str]] = defaultdict(list)
    for queue in sorted(servers):
        units[unit_of(queue)].append(queue)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    crews: dict[tuple[str, ...], list[Member]] = {}
    for unit, queues in units.items():
        crew = _crew_of([servers[queue] for queue in queues])
        names = tuple(member.name for member in crew)
        groups[names].append(unit)
        crews[names] = crew
    share: set[str] = set()
    for names, its_units in groups.items():
        if name in names:
            for unit in _part(names.index(name), crews[names], its_units):
                share.update(units[unit])
    return share & mine


def _crew_of(servers: Sequence[list[Member]]) -> list[Member]:
    """Who serves all of a unit's queues; where nobody does, who serves any."""
    first, *others = servers
    common = [member for member in first if all(member in each for each in others)]
    if common:
        return common
    found = {member.name: member for each in servers for member in each}
    return [found[name] for name in sorted(found)]


def _part(index: int, members: list[Member], units: list[str]) -> list[str]:
    """The consecutive part of ``units`` that falls to one of the members, by their slots."""
    slots = [max(1, member.slots) for member in members]
    before, total = sum(slots[:index]), sum(slots)
    first = round(len(units) * before / total)
    return units[first : round(len(units) * (before + slots[index]) / total)]

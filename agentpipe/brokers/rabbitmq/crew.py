"""Crew: the workers that hear of each other, and which of them serves which agent.

Each tells the others when it comes, when it goes and what it serves; everybody who hears the
same comes to the same shares. The server's exclusive queues decide where views differ: an agent
is served only by who holds its lock.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, Self

import orjson

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


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
        known: How many workers it knows, itself among them.
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

    def encode(self, **more: Any) -> bytes:
        """As it goes over the wire."""
        record = asdict(self) | {"queues": sorted(self.queues), "owned": sorted(self.owned)}
        return orjson.dumps(record | more)

    @classmethod
    def decode(cls, record: Mapping[str, Any]) -> Self:
        """What ``encode`` wrote; later versions may tell more."""
        fields = {name: record[name] for name in cls.__slots__ if name in record}
        fields["queues"] = frozenset(fields["queues"])
        fields["owned"] = frozenset(fields["owned"])
        return cls(**fields)


def share_of(name: str, members: Iterable[Member]) -> set[str]:
    """The queues that the member ``name`` is to serve: about as many as its slots are of all.

    Depends on nothing but the members, so that all of them come to the same result.
    """
    servers: dict[str, list[Member]] = defaultdict(list)
    for member in sorted(members, key=lambda member: member.name):
        for queue in member.queues:
            servers[queue].append(member)
    groups: dict[tuple[str, ...], list[str]] = defaultdict(list)
    for queue in sorted(servers):
        groups[tuple(member.name for member in servers[queue])].append(queue)
    share: set[str] = set()
    for names, queues in groups.items():
        if name in names:
            share.update(_part(names.index(name), servers[queues[0]], queues))
    return share


def _part(index: int, members: list[Member], queues: list[str]) -> list[str]:
    """The consecutive part of ``queues`` that falls to one of the members, by their slots."""
    slots = [max(1, member.slots) for member in members]
    before, total = sum(slots[:index]), sum(slots)
    first = round(len(queues) * before / total)
    return queues[first : round(len(queues) * (before + slots[index]) / total)]

"""Groups: encodes a group member's end as a script argument."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.records import MemberEnd, Offer

MAX_PRIORITY = 2**53  # Scores of sorted sets are doubles.


def bounded_priority(offer: Offer) -> int:
    """Return the priority, clamped to the integers that a score holds exactly."""
    return max(-MAX_PRIORITY, min(MAX_PRIORITY, offer.priority))


def said_of(member: MemberEnd | None) -> bytes:
    """Encode a member's end for the script ``settle``; empty for a task outside any group."""
    if member is None:
        return b""
    if member.good:
        versions = (member.versions[0], member.versions[-1]) if member.versions else ()
        return b" ".join([b"good", *(b"%d" % version for version in versions)])
    return _repair(member.repair) if member.repair else b""


def _repair(offer: Offer) -> bytes:
    task_id = offer.task_id.encode()
    head = b"repair %d %d " % (bounded_priority(offer), len(task_id))
    return head + task_id + b" " + offer.payload

"""Groups: what a settlement says of a member, in the words of the scripts."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from agentpipe.brokers.records import MemberEnd, Offer

MAX_PRIORITY = 2**53  # Scores are doubles.


def bounded_priority(offer: Offer) -> int:
    """The priority as far as a score can tell it from others."""
    return max(-MAX_PRIORITY, min(MAX_PRIORITY, offer.priority))


def said_of(member: MemberEnd | None) -> bytes:
    """See the script ``settle``; nothing of a task in no group."""
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

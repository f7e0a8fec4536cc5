"""Settlement arguments: encodes settlements as ``settle.lua`` describes, and their cooldowns."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.breaker import reason_of
from agentpipe.brokers.measures import increments_of, observed_by
from agentpipe.brokers.redis.offering import bounded_priority
from agentpipe.brokers.redis.scripts import PORTION
from agentpipe.core.portions import portions_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agentpipe.brokers.records import MemberEnd, Offer, Settlement
    from agentpipe.brokers.redis.packing import Argument


def settlement_args(settlements: Sequence[Settlement]) -> list[Argument]:
    """Encode settlements as ``settle.lua`` describes."""
    parts: list[Argument] = [each.result for each in settlements]
    rows = [_row(each, parts) for each in settlements]
    return [orjson.dumps(rows), *parts]


def _row(each: Settlement, parts: list[Argument]) -> list[Any]:
    """Return the settlement's values; appends other bytes than its result to ``parts``."""
    claim, (run, wait) = each.claim, observed_by(each)
    return [
        each.action,
        claim.task_id,
        claim.worker,
        str(claim.number),
        each.outcome,
        each.config_hash,
        -1 if run is None else run,
        -1 if wait is None else wait,
        flat_increments(increments_of(each)),
        _more(each, parts),
    ]


def _more(each: Settlement, parts: list[Argument]) -> dict[str, Any]:
    """Return the fields that are not at their defaults."""
    more: dict[str, Any] = {}
    if each.delay_s:
        more["delay"] = float(each.delay_s)
    if each.reason:
        more["reason"] = each.reason
    if each.reward is not None:
        more["reward"] = float(each.reward)
    if each.usd:
        more["usd"] = float(each.usd)
    if each.tokens:
        more["tokens"] = float(each.tokens)
    if each.cooldown_queues and not _begins_apart(each):
        more["queues"] = each.cooldown_queues
    if each.failure is not None:
        more |= {"digest": each.failure.digest, "limit": each.failure.limit}
        more["pause"] = reason_of(each)
    if each.payload:
        more["payload"] = _added(parts, each.payload)
    if each.member is not None and (end := _encoded(each.member)):
        more["member"] = _added(parts, end)
    return more


def _added(parts: list[Argument], data: bytes) -> int:
    """Append the bytes; returns their index, from 1."""
    parts.append(data)
    return len(parts)


def _encoded(member: MemberEnd) -> bytes:
    """Encode how a group's member ended; empty if that changes nothing."""
    if member.good:
        versions = (member.versions[0], member.versions[-1]) if member.versions else ()
        return b" ".join([b"good", *(b"%d" % version for version in versions)])
    return _repair(member.repair) if member.repair else b""


def _repair(offer: Offer) -> bytes:
    task_id = offer.task_id.encode()
    head = b"repair %d %d " % (bounded_priority(offer), len(task_id))
    return head + task_id + b" " + offer.payload


def flat_increments(increments: Mapping[int, float]) -> list[float]:
    """Return increments of measures as a flat list: a position, its number, the next position."""
    return [number for pair in increments.items() for number in pair]


def cooldowns_apart(settlements: Sequence[Settlement]) -> Iterator[tuple[float, Sequence[str]]]:
    """Yield the cooldowns of many queues, part by part: seconds, and queues.

    They begin before their settlements, which do not name the queues.
    """
    for each in filter(_begins_apart, settlements):
        for part in portions_of(each.cooldown_queues, PORTION):
            yield each.delay_s, part


def _begins_apart(each: Settlement) -> bool:
    return each.action == "cooldown" and len(each.cooldown_queues) > PORTION

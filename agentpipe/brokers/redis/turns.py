"""Turns: a worker's recurring requests: settle, claim, and both at once."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.brokers.breaker import Tripped, reason_of
from agentpipe.brokers.measures import counts_of, observed_by
from agentpipe.brokers.redis.decoding import as_claims
from agentpipe.brokers.redis.groups import said_of
from agentpipe.brokers.redis.settling import PORTION, Settler
from agentpipe.core.portions import portions_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from agentpipe.brokers.records import Claim, ClaimRequest, Settlement
    from agentpipe.brokers.redis.asking import Asking
    from agentpipe.brokers.redis.packing import Argument


class Turns:
    """Settles and claims for the workers of a process. Thread-safe."""

    def __init__(self, asking: Asking, retention_s: float) -> None:
        self._asking, self._retention_s = asking, retention_s
        self._settler = Settler(self._settle)
        self._tripped: list[Tripped] = []

    def claim(self, request: ClaimRequest) -> list[Claim]:
        """See ``Store.claim``."""
        if request.limit <= 0:
            return []
        name = request.worker.name
        args = self._claim_args(request)
        return as_claims(self._asking.ask("claim", name, *args), name)

    def settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        """See ``Store.settle``."""
        return self._settler.settle(settlements)

    def settle_and_claim(
        self, settlements: Sequence[Settlement], request: ClaimRequest
    ) -> tuple[list[bool], list[Claim] | None]:
        """See ``SettlesAndClaims``."""
        claims: list[Claim] | None = None

        def ask(portion: Sequence[Settlement]) -> list[bool]:
            nonlocal claims
            name = request.worker.name
            args = (*self._claim_args(request), *_settle_args(portion))
            reply, values = self._asking.settle_and_claim(_claims_of(portion), name, *args)
            claims = None if values is None else as_claims(values, name)
            return self._noted(portion, reply)

        return self._settler.settle(settlements, ask if request.limit > 0 else None), claims

    def take_tripped(self) -> list[Tripped]:
        """See ``BreaksOnFailures``."""
        tripped, self._tripped = self._tripped, []
        return tripped

    def _claim_args(self, request: ClaimRequest) -> tuple[Argument, ...]:
        outbox, held = request.outbox, request.held
        return (
            request.worker.name,
            request.limit,
            outbox.records,
            outbox.size_bytes,
            -1 if held is None else held,
            self._retention_s,
        )

    def _settle(self, settlements: Sequence[Settlement]) -> list[bool]:
        what, args = _claims_of(settlements), _settle_args(settlements)
        return self._noted(settlements, self._asking.ask("settle", what, *args))

    def _noted(self, settlements: Sequence[Settlement], reply: bytes) -> list[bool]:
        """Return whether each took effect, and record the collections that they paused."""
        letters, *paused = reply.split(b"\n")
        tripping = compress(settlements, [letter == ord("t") for letter in letters])
        pairs = zip(paused, tripping, strict=True)
        self._tripped += [Tripped(name.decode(), reason_of(each)) for name, each in pairs]
        return [letter in b"dt" for letter in letters]


def cooldowns_apart(settlements: Sequence[Settlement]) -> Iterator[tuple[float, Sequence[str]]]:
    """Yield the cooldowns of many queues, part by part: seconds, and queues.

    They begin before their settlements, which do not name the queues.
    """
    for each in filter(_begins_apart, settlements):
        for part in portions_of(each.cooldown_queues, PORTION):
            yield each.delay_s, part


def _begins_apart(each: Settlement) -> bool:
    return each.action == "cooldown" and len(each.cooldown_queues) > PORTION


def packed_counts(counts: Mapping[int, float]) -> list[float]:
    """Return increments of measures as a flat list: a position, its number, the next position."""
    return [number for pair in counts.items() for number in pair]


def _claims_of(settlements: Sequence[Settlement]) -> tuple[Any, ...]:
    return tuple(each.claim.key for each in settlements)


def _settle_args(settlements: Sequence[Settlement]) -> list[Argument]:
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
        packed_counts(counts_of(each)),
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
    if each.member is not None and (said := said_of(each.member)):
        more["member"] = _added(parts, said)
    return more


def _added(parts: list[Argument], data: bytes) -> int:
    """Append the bytes; returns their index, from 1."""
    parts.append(data)
    return len(parts)

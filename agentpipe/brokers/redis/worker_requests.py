"""WorkerRequests: a worker's recurring requests: settle, claim, and both at once."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.breaker import Tripped, reason_of
from agentpipe.brokers.redis.decoding import as_claims
from agentpipe.brokers.redis.settlement_args import settlement_args
from agentpipe.brokers.redis.settling import Settler

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.records import Claim, ClaimRequest, Settlement
    from agentpipe.brokers.redis.asking import Asking
    from agentpipe.brokers.redis.packing import Argument


class WorkerRequests:
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
            args = (*self._claim_args(request), *settlement_args(portion))
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
        what, args = _claims_of(settlements), settlement_args(settlements)
        return self._noted(settlements, self._asking.ask("settle", what, *args))

    def _noted(self, settlements: Sequence[Settlement], reply: bytes) -> list[bool]:
        """Return whether each took effect, and record the collections that they paused."""
        letters, *paused = reply.split(b"\n")
        tripping = compress(settlements, [letter == ord("t") for letter in letters])
        pairs = zip(paused, tripping, strict=True)
        self._tripped += [Tripped(name.decode(), reason_of(each)) for name, each in pairs]
        return [letter in b"dt" for letter in letters]


def _claims_of(settlements: Sequence[Settlement]) -> tuple[Any, ...]:
    return tuple(each.claim.key for each in settlements)

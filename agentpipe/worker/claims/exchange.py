"""Exchange: settles a worker's finished runs, and claims the next ones.

Uses one step of the store if it has one: the slot is refilled as soon as its run is settled, and
both cost one transaction.
"""

from __future__ import annotations

import logging
import time
from collections import deque
from typing import TYPE_CHECKING

from agentpipe.brokers.breaker import remedy
from agentpipe.brokers.capabilities import AwaitsClaims, BreaksOnFailures
from agentpipe.brokers.records import ClaimRequest
from agentpipe.worker.claims.meanwhile import Batch, Meanwhile
from agentpipe.worker.claims.settling import ClaimSettling
from agentpipe.worker.outcomes.follow_ups import offer_all
from agentpipe.worker.running.message import ClaimedMessage
from agentpipe.worker.times import SHUTDOWN_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Claim, Settlement, Worker
    from agentpipe.settings import OutboxLimits
    from agentpipe.worker.claims.held import HeldClaims
    from agentpipe.worker.loop.event_loop import EventLoop
    from agentpipe.worker.running.capacity import Capacity

# Claims are small and alternate with those of other processes, so no process takes everything.
CLAIM_BATCH = 32
# Most claims held per slot: one for the current run, one for the previous run while it is settled.
CLAIMS_PER_SLOT = 2
# As many more while they are settled: short runs end faster than a server stores them, and a few
# slots need as many in flight as many do.
MORE = 512
# A loop turn that takes longer is blocked by a run: new claims would wait behind it.
TURNS_WITHIN_S = 0.5
# Retry interval for settlements that the store refuses in every form; it can be repaired meanwhile.
REFUSED_AGAIN_S = 30.0

log = logging.getLogger(__name__)


def most_held(slots: int) -> int:
    """Most claims that a worker with this many slots holds."""
    return CLAIMS_PER_SLOT * slots + MORE


class Exchange:
    """Not thread-safe, except ``settle_soon`` and ``note_cancelled``.

    Attributes:
        cancelled: Tasks cancelled since the last claim began.
        has_settled: Whether there is settled work to make durable, also from a turn that failed;
            the caller resets it.
        has_failed: Whether a settlement in the background failed; the next turn settles it first.
    """

    def __init__(
        self,
        store: Store,
        limits: OutboxLimits,
        settlement_of: Callable[[ClaimedMessage], Settlement],
        held: HeldClaims,
        capacity: Capacity,
        *,
        settled: Callable[[], None],
    ) -> None:
        """``settled`` is called when a background settlement succeeds or fails."""
        self.cancelled: frozenset[str] = frozenset()
        self._store, self._limits, self._settlement_of = store, limits, settlement_of
        self._held, self._capacity = held, capacity
        self._breaking = store if isinstance(store, BreaksOnFailures) else None
        self._settling, self._settled = ClaimSettling(store), settled
        self._meanwhile = Meanwhile(store, held, self._note_meanwhile, self._again)
        self.has_failed = False
        self._finished: deque[ClaimedMessage] = deque()
        self._awaiting = store if isinstance(store, AwaitsClaims) else None
        self._awaited: list[ClaimedMessage] = []
        self._refused: list[ClaimedMessage] = []
        self._refused_until = 0.0
        self.has_settled = False

    def settle_soon(self, messages: Sequence[ClaimedMessage]) -> None:
        """Settle these in the next turn."""
        self._finished.extend(messages)

    def note_cancelled(self, cancelled: Collection[str]) -> None:
        """Remember these: the signal can come before the claim."""
        self.cancelled = self.cancelled.union(cancelled)

    @property
    def _running(self) -> int:
        """Number of held claims that fill a slot; those that are awaited fill none."""
        return self._meanwhile.running - len(self._awaited)

    def turn(self, worker: Worker | None, loop: EventLoop, *, share: bool) -> list[ClaimedMessage]:
        """Settle finished runs, and claim for ``worker`` unless it is None; return the new claims.

        Raises:
            AgentpipeError: Call again; what was not settled is kept.
        """
        batch = self._ended()
        settlements = list(map(self._settlement_of, batch))
        if batch and not self.has_failed and self._meanwhile.takes(settlements):
            request = self._request(worker, loop, len(batch), share=share)
            claimed = self._settle_meanwhile(batch, settlements, request)
            if claimed is not None:
                return claimed
        if batch and (request := self._request(worker, loop, len(batch), share=share)):
            claimed = self._settle_and_claim(batch, settlements, request)
            if claimed is not None:
                return claimed
        self._settle(batch, settlements)
        request = self._request(worker, loop, 0, share=share)
        return self._claim(request) if request else []

    def settle_ended(self) -> None:
        """Settle all finished runs, including those being settled in the background."""
        self._meanwhile.wait(SHUTDOWN_S)
        self._settle_all(self._ended())
        awaited, self._awaited = self._awaited, []
        self._finished.extendleft(reversed(awaited))
        offer_all(self._store, awaited)
        self._settle_all(awaited)

    def carry_out(self, settlements: Sequence[Settlement]) -> None:
        """Carry out settlements of runs that are no longer tracked."""
        self._settling.settle_all(settlements)

    def _ended(self) -> list[ClaimedMessage]:
        """What to settle now; offers its follow-ups to the store."""
        if self._refused and time.monotonic() >= self._refused_until:
            self._finished.extend(self._refused)
            self._refused, self._refused_until = [], time.monotonic() + REFUSED_AGAIN_S
        self._put_aside()
        batch = [self._finished[index] for index in range(len(self._finished))]
        offer_all(self._store, batch)
        return batch

    def _put_aside(self) -> None:
        """Part what the store cannot settle yet from what it can."""
        keys = self._awaiting.awaited if self._awaiting else frozenset()
        if keys or self._awaited:
            ended = [
                *self._awaited,
                *(self._finished.popleft() for _ in range(len(self._finished))),
            ]
            self._awaited = [message for message in ended if message.claim.key in keys]
            self._finished.extend(message for message in ended if message.claim.key not in keys)

    def _settle_and_claim(
        self,
        batch: Sequence[ClaimedMessage],
        settlements: Sequence[Settlement],
        request: ClaimRequest,
    ) -> list[ClaimedMessage] | None:
        """New claims; None, with nothing done, if it takes two steps."""
        with self._held.claiming:
            if self._held.has_lost:
                return None
            # From here on, a claim itself shows whether its task was cancelled before.
            self.cancelled = frozenset()
            both = self._settling.settle_and_claim(settlements, request)
            if both is None:
                return None
            done, claims = both
            for message, settled in zip(batch, done, strict=True):
                self._finished.popleft()
                self._note_settled(message, settled)
            messages = self._hold(self._store.claim(request) if claims is None else claims)
        self._say_what_tripped()
        return messages

    def _settle_meanwhile(
        self,
        batch: Sequence[ClaimedMessage],
        settlements: Sequence[Settlement],
        request: ClaimRequest | None,
    ) -> list[ClaimedMessage] | None:
        """New claims; None, with nothing done, if it takes two steps."""
        with self._held.claiming:
            if self._held.has_lost:
                return None
            # From here on, a claim itself shows whether its task was cancelled before.
            self.cancelled = frozenset()
            begun = self._meanwhile.begin([*batch], settlements, request)
            if begun is None:
                return None
            for _ in batch:
                self._finished.popleft()
            (claims,) = begun
            if claims is None:
                claims = self._store.claim(request) if request else []
            messages = self._hold(claims)
        self._say_what_tripped()
        return messages

    def _note_meanwhile(self, batch: Batch, done: Sequence[bool]) -> None:
        for message, settled in zip(batch, done, strict=True):
            self._note_settled(message, settled)
        self._settled()

    def _again(self, batch: Sequence[ClaimedMessage]) -> None:
        self.has_failed = True
        self._finished.extend(batch)
        self._settled()

    def _settle_all(self, batch: Sequence[ClaimedMessage]) -> None:
        self._settle(batch, list(map(self._settlement_of, batch)))

    def _settle(self, batch: Sequence[ClaimedMessage], settlements: Sequence[Settlement]) -> None:
        left = batch
        while left:
            done = self._settling.settle(settlements[-len(left) :])
            for message, settled in zip(left, done, strict=False):
                self._finished.popleft()
                self._note_settled(message, settled)
            left = left[len(done) :]
        self.has_failed = False
        if batch:
            self._say_what_tripped()

    def _note_settled(self, message: ClaimedMessage, settled: bool | None) -> None:  # noqa: FBT001 - the store's verdict
        if settled is None:
            self._refused.append(message)
            return
        self.has_settled = True
        self._held.remove(message)
        if not settled:
            log.warning(
                "task %s: its lease was lost, the run does not count", message.claim.task_id
            )

    def _say_what_tripped(self) -> None:
        for each in self._breaking.take_tripped() if self._breaking else ():
            name = each.collection
            log.error("%s is paused: %s; %s", name, each.reason, remedy(name))

    def _request(
        self, worker: Worker | None, loop: EventLoop, ending: int, *, share: bool
    ) -> ClaimRequest | None:
        """A request for the slots free once ``ending`` held runs are settled; None if none are."""
        held = self._capacity.held = self._running - ending
        if worker is None:
            return None
        room = most_held(worker.slots) - len(self._held)
        free = min(self._capacity.free(worker.slots), room)
        stuck = loop.turns.turn_s > TURNS_WITHIN_S
        if free <= 0 or loop.stray_s or stuck:
            return None
        return ClaimRequest(worker, min(free, CLAIM_BATCH), self._limits, held if share else None)

    def _claim(self, request: ClaimRequest) -> list[ClaimedMessage]:
        # From here on, a claim itself shows whether its task was cancelled before.
        self.cancelled = frozenset()
        with self._held.claiming:
            if self._held.has_lost:
                return []
            return self._hold(self._store.claim(request))

    def _hold(self, claims: Sequence[Claim]) -> list[ClaimedMessage]:
        messages = [ClaimedMessage(claim) for claim in claims]
        self._held.add(messages)
        self._capacity.held = self._running
        return messages

"""Meanwhile: settlements in flight while their worker claims and runs the next tasks."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import SettlesMeanwhile

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from concurrent.futures import Future

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Claim, ClaimRequest, Settlement
    from agentpipe.worker.claims.held import HeldClaims
    from agentpipe.worker.running.message import ClaimedMessage

Batch = list["ClaimedMessage"]


class Meanwhile:
    """One worker's settlements in flight. The claiming thread retries those that fail.

    Args:
        store: Where they are settled.
        held: What the worker holds.
        settled: Called with messages, and whether the claim of each counted.
        failed: Called with messages that were not settled.
    """

    def __init__(
        self,
        store: Store,
        held: HeldClaims,
        settled: Callable[[Batch, Sequence[bool]], None],
        failed: Callable[[Batch], None],
    ) -> None:
        self._store = store if isinstance(store, SettlesMeanwhile) else None
        self._held, self._settled, self._failed = held, settled, failed
        self._changed = threading.Condition()
        self._under_way: dict[Future[list[bool]], Batch] = {}
        self._number = 0

    @property
    def running(self) -> int:
        """Number of held claims that are not being settled."""
        with self._changed:
            return len(self._held) - self._number

    def takes(self, settlements: Sequence[Settlement]) -> bool:
        """Whether all of these can be settled out of order."""
        return self._store is not None and all(
            each.action == "complete" and each.outcome == "ok" for each in settlements
        )

    def begin(
        self, batch: Batch, settlements: Sequence[Settlement], request: ClaimRequest | None
    ) -> tuple[list[Claim] | None] | None:
        """See ``SettlesMeanwhile``; return the claims in a tuple, or None if nothing was done."""
        assert self._store is not None
        begun = self._store.settle_meanwhile(settlements, request)
        if begun is None:
            return None
        future, claims = begun
        with self._changed:
            self._under_way[future] = batch
            self._number += len(batch)
        future.add_done_callback(self._done)
        return (claims,)

    def _done(self, future: Future[list[bool]]) -> None:
        failed = future.cancelled() or future.exception() is not None
        with self._changed:
            batch = self._under_way.pop(future)
            self._number -= len(batch)
            if failed:
                self._failed(batch)
            else:
                self._settled(batch, future.result())
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Wait until nothing is in flight."""
        with self._changed:
            self._changed.wait_for(lambda: not self._under_way, timeout_s)

"""Settling: carries out settlements, and isolates any that the store refuses.

One settlement that cannot be stored fails its whole transaction. It must neither stop its worker
nor cost its neighbours their results. The batch is halved until it stands alone; it is then settled
with less content. Nothing is dropped: if the store still refuses it, it is retried later.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.capabilities import SettlesAndClaims
from agentpipe.brokers.records import Settlement
from agentpipe.brokers.statistics import MAX_LAST_ERROR_CHARS
from agentpipe.core.failures import error_line
from agentpipe.core.masking import masked, shorten
from agentpipe.core.outside import json_text
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import FormatError, Unreachable
from agentpipe.sinks.base import Record
from agentpipe.sinks.truncate import SIDE_FIELDS, cut
from agentpipe.worker.claims.fitting import settle_fitting

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Action, Claim, ClaimRequest

# Most settlements per call; a worker has fewer slots.
PORTION = 1_024
# First with less content, then with only the failure.
LAST_TRY = 2
# Size limit for a Result that the store refuses whole.
CUT_BYTES = 256 * 1024
KEPT_CHARS = 10_000
REMEDY = "the log of the worker has the broker's error"

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class _Refusal:
    """Why, and how often, the store refused a settlement sent alone."""

    why: str
    times: int


class ClaimSettling:
    """Carries out settlements; not thread-safe.

    Refusals are remembered across an outage: some servers close the connection when they refuse.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._both = store if isinstance(store, SettlesAndClaims) else None
        self._portion = PORTION
        self._refusals: dict[tuple[str, int], _Refusal] = {}

    def settle_all(self, settlements: Sequence[Settlement]) -> list[bool | None]:
        """Settle all of them; see ``settle`` for the returned outcomes."""
        done: list[bool | None] = []
        while len(done) < len(settlements):
            done += self.settle(settlements[len(done) :])
        return done

    def settle(self, settlements: Sequence[Settlement]) -> list[bool | None]:
        """Settle the first of them; return their outcomes, perhaps none yet: call again.

        An outcome is what ``Store.settle`` returns, or None if the store refuses the settlement in
        every form: retry it later.

        Raises:
            Unreachable: The store is away; settle the same again.
        """
        part = [self._lessened(each) for each in settlements[: self._portion]]
        try:
            done = settle_fitting(self._store, part)
        except Unreachable:
            raise
        except Exception as error:  # noqa: BLE001 - for example a string that it cannot bind
            if len(part) > 1:
                self._portion = len(part) // 2
                return []
            return self._refused(part[0], error)
        self._portion = min(PORTION, 2 * self._portion)
        self._log_lessened(part)
        return list[bool | None](done)

    def settle_and_claim(
        self, settlements: Sequence[Settlement], request: ClaimRequest
    ) -> tuple[list[bool], list[Claim] | None] | None:
        """Settle all and claim in one step; return None, with nothing done, if that is impossible.

        See ``SettlesAndClaims``.

        Raises:
            Unreachable: The store is away; call again with the same arguments.
        """
        if self._both is None or self._refusals or len(settlements) > self._portion:
            return None
        try:
            return self._both.settle_and_claim(settlements, request)
        except Unreachable:
            raise
        except Exception:  # noqa: BLE001 - ``settle`` finds the refused one and logs why
            return None

    def _lessened(self, settlement: Settlement) -> Settlement:
        refusal = self._refusals.get(settlement.claim.key)
        if refusal is None:
            return settlement
        return _with_less(settlement, refusal)

    def _refused(self, settlement: Settlement, error: Exception) -> list[bool | None]:
        key, why = settlement.claim.key, _why(error)
        before = self._refusals.get(key)
        times = 1 + (before.times if before else 0)
        if times <= LAST_TRY:
            self._refusals[key] = _Refusal(why if before is None else before.why, times)
            return []
        del self._refusals[key]
        log.error("task %s: the broker refuses its result, which is tried again: %s", key[0], why)
        return [None]

    def _log_lessened(self, settlements: Sequence[Settlement]) -> None:
        for each in settlements if self._refusals else ():
            if refusal := self._refusals.pop(each.claim.key, None):
                log.error(
                    "task %s: the broker refused its result, and took less of it: %s",
                    each.claim.task_id,
                    refusal.why,
                )


def _why(error: Exception) -> str:
    return shorten(masked(error_line(error)), MAX_LAST_ERROR_CHARS)


def _with_less(settlement: Settlement, refusal: _Refusal) -> Settlement:
    """The settlement without what the store may refuse; on the last try, only its failure."""
    why, is_last = refusal.why, refusal.times == LAST_TRY
    if settlement.action in ("release", "crash", "cooldown") and is_last:
        action: Action = "crash" if settlement.action == "crash" else "release"
        return Settlement(settlement.claim, action)
    if is_last:
        failed = _failed(settlement, why)
        return Settlement(settlement.claim, "complete", failed, "infra_error", _ascii(why))
    return replace(
        settlement,
        result=_cut(settlement, why) if settlement.result else b"",
        reason=_ascii(settlement.reason),
        reward=None,
        usd=0.0,
        failure=None,
        cooldown_queues=(),
        payload=b"",
    )


def _cut(settlement: Settlement, why: str) -> bytes:
    record = Record(settlement.claim.task_id, settlement.result)
    return cut(record, CUT_BYTES, REMEDY, reason=why, drop=SIDE_FIELDS)


def _failed(settlement: Settlement, why: str) -> bytes:
    """A Result that reports the refusal, with the beginning of the answer."""
    try:
        before = Result.decode(settlement.result)
    except FormatError:  # A task that was to run again has no Result.
        before = Result(task_id=settlement.claim.task_id, agent=settlement.claim.queue)
    error = {"type": "StoreError", "message": f"the broker refused this result: {why}"}
    failed = Result(
        result=_beginning(before.result),
        task_id=settlement.claim.task_id,
        collection=before.collection,
        agent=before.agent,
        attempt=before.attempt,
        outcome="infra_error",
        error={**error, "traceback": None},
        worker=before.worker,
        submitted_at=before.submitted_at,
        started_at=before.started_at,
        finished_at=before.finished_at,
        group_id=before.group_id,
        sample_index=before.sample_index,
        group_size=before.group_size,
        run=before.run,
        retry_of=before.retry_of,
    )
    return failed.encode(Redactor(()))


def _beginning(answer: Any) -> Any:
    """The answer, or the beginning of its text if it is long."""
    text = json_text(answer)
    return answer if len(text) <= KEPT_CHARS else shorten(text, KEPT_CHARS)


def _ascii(text: str) -> str:
    return text.encode("ascii", "backslashreplace").decode()[:MAX_LAST_ERROR_CHARS]

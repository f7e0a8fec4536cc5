"""Consumer: claims tasks for all queues of a process, and settles those that have run."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections import deque
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import CancelsTasks
from agentpipe.brokers.records import ClaimRequest
from agentpipe.core.backoff import delay_s
from agentpipe.errors import AgentpipeError
from agentpipe.sending.broker import ClaimedMessage, StoreBroker

if TYPE_CHECKING:
    from collections.abc import Collection

    from agentpipe.brokers.records import Settlement, Worker
    from agentpipe.settings import Settings
    from agentpipe.worker.event_loop import LoopThread
    from agentpipe.worker.forwarder import Forwarder
    from agentpipe.worker.results import Results

# Small claims interleave with other processes' ones, so that none takes all there is.
CLAIM_BATCH = 32
# For so long a worker takes only its even share of what is ready, so that the others, who are
# woken meanwhile, get theirs; what they have not taken by then is for whoever comes.
SHARE_FOR_S = 0.02
TICK_S = 1.0
OUTAGE_PAUSE_S, MAX_OUTAGE_PAUSE_S = 0.1, 2.0
# What a process that ends may take to settle and to carry off its outbox.
LAST_WORDS_S = 5.0

log = logging.getLogger(__name__)


class Consumer:
    """Claims for all queues of the process, and settles what has run.

    Stands in for each of Dramatiq's consumer threads, hence its method names.
    """

    def __init__(
        self, broker: StoreBroker, settings: Settings, results: Results, forwarder: Forwarder
    ) -> None:
        self.broker, self.results, self.forwarder = broker, results, forwarder
        self.ends_by = float("inf")
        self._settings = settings
        self._joined = False
        # Who beats while another thread leaves would find the lease lost, and join again.
        self._membership = threading.RLock()
        self._claiming = True
        self._stopping = False
        self._held: dict[str, ClaimedMessage] = {}
        self._finished: deque[ClaimedMessage] = deque()
        self._wake, self._rung = threading.Event(), threading.Event()
        # Heard since the latest claim was begun.
        self._cancelled: frozenset[str] = frozenset()
        self._greedy_at = math.inf
        self._failures = 0
        self._thread = threading.Thread(target=self._run, name="agentpipe-consume", daemon=True)
        self._waker = threading.Thread(target=self._watch, name="agentpipe-watch", daemon=True)

    def begin(self, worker: Worker, loop: LoopThread) -> None:
        """Start to claim, as soon as the store answers."""
        self.worker, self._loop = worker, loop
        self._thread.start()
        self._waker.start()

    @property
    def held(self) -> list[ClaimedMessage]:
        """What this process has claimed and not settled."""
        return list(self._held.values())

    def post_process(self, messages: list[ClaimedMessage]) -> None:
        """Settle them soon; from any thread."""
        self._finished.extend(messages)
        self._wake.set()

    def claim_no_more(self) -> None:
        """Let what runs finish, and take nothing new."""
        self._claiming = False
        self.ends_by = time.monotonic() + self._settings.grace_s + 3 * LAST_WORDS_S

    def keep(self, report: bytes | None = None) -> bool:
        """Renew the lease; where it was lost, interrupt what runs here and join again.

        Returns:
            Whether there is a lease to renew.

        Raises:
            Unreachable: The store does not answer.
        """
        with self._membership:
            if self._joined and not self.broker.store.heartbeat(self.worker, report):
                log.warning("the lease was lost: its tasks went to other workers")
                self._abandon()
            return self._joined

    def _abandon(self) -> None:
        self._loop.interrupt_all()
        self.broker.store.join(self.worker)

    def leave(self) -> None:
        """Give back all that is held, uncounted, and claim no more; once is enough."""
        self._claiming = False
        with self._membership:
            if self._joined:
                back = self.broker.store.leave(self.worker)
                self._joined = False
                log.info("worker %s ends and gives back %d tasks", self.worker.name, back)

    def stop(self) -> None:
        """Settle what has finished, give back the rest, carry off the outbox, and end."""
        self._claiming = False
        self._stopping = True
        self._wake.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait for that."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Nothing is left to do after ``join``."""

    def _run(self) -> None:
        while not self._stopping:
            self._wake.wait(_until(self._greedy_at))
            self._wake.clear()
            try:
                self._turn()
            except AgentpipeError as error:
                self._failed(error)
            except Exception:
                log.exception("the consumer met a bug of agentpipe's; it goes on")
                time.sleep(TICK_S)
        self._last_turn()

    def _turn(self) -> None:
        with self._membership:
            if not self._joined and self._claiming:
                self.broker.store.join(self.worker)
                self._joined = True
        if self._failures:  # While the store was away the lease may have lapsed.
            self.keep()
        greedy = self._is_greedy()
        settled = self._settle()
        while self._claiming and (claimed := self._claim(greedy=greedy)):
            self._loop.start_runs(claimed)
            self._end_cancelled(self._cancelled)
            if len(claimed) < CLAIM_BATCH:
                break  # What the store kept back, it tells of by ``wait``.
            settled += self._settle()
        if settled:  # The next runs are on their way while the disk works for the last ones.
            self.broker.store.sync()
            self.forwarder.notify()
        if self._failures:
            log.warning("the broker answers again, after %d tries", self._failures)
            self._failures = 0

    def _is_greedy(self) -> bool:
        """Whether the others had their time; it begins when the store has something new."""
        greedy = time.monotonic() >= self._greedy_at
        if greedy:
            self._greedy_at = math.inf
        if self._rung.is_set():
            self._rung.clear()
            self._be_greedy_soon()
        return greedy

    def _be_greedy_soon(self) -> None:
        self._greedy_at = min(self._greedy_at, time.monotonic() + SHARE_FOR_S)

    def _last_turn(self) -> None:
        """At the end, a store that is away has some seconds to come back."""
        deadline = time.monotonic() + LAST_WORDS_S
        while time.monotonic() < deadline:
            try:
                self._settle()
                self.broker.store.sync()
                self.forwarder.stop(max(0.0, deadline - time.monotonic()))
                self.leave()
            except AgentpipeError as error:
                self._failed(error)
            else:
                return

    def _settle(self) -> int:
        batch = [self._finished[index] for index in range(len(self._finished))]
        if not batch:
            return 0
        done = self.broker.store.settle([self._settlement_of(message) for message in batch])
        for message, settled in zip(batch, done, strict=True):
            self._finished.popleft()
            self._held.pop(message.claim.task_id, None)
            if not settled:
                log.warning(
                    "task %s: its lease was lost, the run does not count", message.claim.task_id
                )
        return len(batch)

    def _settlement_of(self, message: ClaimedMessage) -> Settlement:
        return message.settlement or self.results.give_up(self.broker, message)

    def _claim(self, *, greedy: bool) -> list[ClaimedMessage]:
        free = self.worker.slots - len(self._held)
        if free <= 0:
            return []
        # What was cancelled before is told with its claim, if it comes to this worker at all.
        self._cancelled = frozenset()
        held = None if greedy else len(self._held)
        limits = self._settings.outbox_limits
        request = ClaimRequest(self.worker, min(free, CLAIM_BATCH), limits, held)
        claims = self.broker.store.claim(request)
        if not claims and not greedy:
            self._be_greedy_soon()
        messages = [ClaimedMessage(claim) for claim in claims]
        for message in messages:
            self._held[message.claim.task_id] = message
        return messages

    def _hear(self, cancelled: Collection[str]) -> None:
        """Somebody cancelled these; word of that may come before the claim does."""
        self._cancelled = self._cancelled.union(cancelled)
        self._end_cancelled(cancelled)

    def _end_cancelled(self, cancelled: Collection[str]) -> None:
        if ended := self._held.keys() & cancelled:
            self._loop.cancel(frozenset(ended))

    def _watch(self) -> None:
        store = self.broker.store
        cancels = store if isinstance(store, CancelsTasks) else None
        while not self._stopping:
            try:
                store.wait(TICK_S)
                if cancels is not None and (cancelled := cancels.take_cancelled()):
                    self._hear(cancelled)
            except Exception:  # noqa: BLE001 - the consumer meets the same store, and tells
                time.sleep(TICK_S)
            self._rung.set()
            self._wake.set()

    def _failed(self, error: AgentpipeError) -> None:
        if not self._failures:
            log.warning("the broker does not answer, the worker waits for it: %s", error)
        self._failures += 1
        time.sleep(delay_s(self._failures, OUTAGE_PAUSE_S, MAX_OUTAGE_PAUSE_S))
        self._wake.set()


def _until(moment: float) -> float | None:
    return None if moment == math.inf else max(0.0, moment - time.monotonic())

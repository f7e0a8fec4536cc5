"""Consumer: claims tasks for all queues of a process, and settles finished runs."""

from __future__ import annotations

import logging
import math
import threading
import time
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.brokers.records import Settlement
from agentpipe.core.backoff import delay_s
from agentpipe.engines.policies import NO_POLICIES
from agentpipe.errors import AgentpipeError
from agentpipe.worker.claims.disk_wait import DiskWait
from agentpipe.worker.claims.draining import Draining
from agentpipe.worker.claims.even_sharing import EvenSharing
from agentpipe.worker.claims.exchange import CLAIM_BATCH, Exchange
from agentpipe.worker.claims.held import HeldClaims
from agentpipe.worker.claims.membership import WorkerMembership
from agentpipe.worker.claims.refill import Refill
from agentpipe.worker.claims.store_news import StoreNews
from agentpipe.worker.times import SHUTDOWN_S, TICK_S

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Worker
    from agentpipe.engines.policies import LivePolicies
    from agentpipe.settings import Settings
    from agentpipe.worker.contact import BrokerContact
    from agentpipe.worker.loop.event_loop import EventLoop
    from agentpipe.worker.outbox.forwarder import Forwarder
    from agentpipe.worker.running.capacity import Capacity
    from agentpipe.worker.running.message import ClaimedMessage
    from agentpipe.worker.watch.last_word import LastWord

BEGIN_LOOK_S = 0.001
OUTAGE_PAUSE_S, MAX_OUTAGE_PAUSE_S = 0.1, 2.0

log = logging.getLogger(__name__)


class Consumer:
    """Claims tasks for all queues of the process and settles finished runs.

    Replaces Dramatiq's consumer threads, hence its method names.

    Attributes:
        ends_by: Deadline for the process to end, on the monotonic clock.
        membership: The worker's registration in the store, with its lease.
        delay_queue: Dramatiq waits on this until all work is done.
        paused_event: Set once claiming has stopped after ``pause``.
        refill: Lets the loop wait for the next runs of many that ended.
        drained: Called on each turn once a draining worker holds nothing and has left.
    """

    def __init__(
        self,
        store: Store,
        settings: Settings,
        settlement_of: Callable[[ClaimedMessage], Settlement],
        forwarder: Forwarder,
        capacity: Capacity,
        *,
        word: LastWord,
        contact: BrokerContact,
        policies: LivePolicies = NO_POLICIES,
    ) -> None:
        self.ends_by, self._contact = math.inf, contact
        self.drained: Callable[[], None] = lambda: None
        self._store, self._forwarder, self._settings = store, forwarder, settings
        self._disk = DiskWait(store, forwarder.notify, contact)
        self._claiming = True
        self._stopping = False
        self._held = self.delay_queue = HeldClaims(word)
        limits = settings.outbox_limits
        self._exchanging = Exchange(
            store, limits, settlement_of, self._held, capacity, settled=self._settled_meanwhile
        )
        self._draining = Draining(store, word, settings.drain_before)
        self.membership = WorkerMembership(
            store, self._held, self._draining, forwarder, lambda: self._claiming
        )
        self._paused, self.paused_event = False, threading.Event()
        self._wake, self._sharing = threading.Event(), EvenSharing()
        self._failures, self.refill = 0, Refill(waits=store.waits_for_disk)
        self._thread = threading.Thread(target=self._run, name="agentpipe-consumer", daemon=True)
        self._news = StoreNews(
            store, policies, cancelled=self._note_cancelled, wake_up=self._wake_up
        )

    def begin(
        self, worker: Worker, loop: EventLoop, may_begin: Callable[[], bool] = lambda: True
    ) -> None:
        """Start claiming for ``worker`` and running on ``loop``.

        Claiming starts once the store answers and ``may_begin`` returns true, which takes moments.
        """
        self._loop, self._may_begin = loop, may_begin
        self.membership.begin(worker, loop.interrupt)
        self._thread.start()
        self._news.start()
        self._disk.start()

    def serve(self, queue: str) -> None:
        """Also serve a queue declared after ``begin``; thread-safe."""
        self.membership.add(queue)
        self._wake.set()

    def pause(self) -> None:
        """Stop claiming until ``resume``; Dramatiq pauses the loop as well."""
        self._paused = True
        self.paused_event.clear()
        self._wake.set()

    def resume(self) -> None:
        """Resume claiming."""
        self._paused = False
        self._wake.set()

    @property
    def held(self) -> list[ClaimedMessage]:
        """What this process has claimed and not settled."""
        return self._held.all()

    def settle_soon(self, messages: list[ClaimedMessage]) -> None:
        """Settle these in the next turn; thread-safe."""
        self._exchanging.settle_soon(messages)
        self._wake.set()

    def settle_and_refill(self, messages: list[ClaimedMessage]) -> None:
        """Settle these, and wait a moment until their slots are refilled; for the loop's thread."""
        self.refill.after(partial(self.settle_soon, messages))

    def claim_no_more(self) -> None:
        """Stop claiming, and let running tasks finish."""
        self._claiming = False
        ends_by = time.monotonic() + self._settings.grace_s + 3 * SHUTDOWN_S
        self.ends_by = min(self.ends_by, ends_by)

    def leave(self) -> None:
        """Stop claiming and release all held claims, uncounted; later calls do nothing."""
        self._claiming = False
        self.membership.leave()

    def leave_with(self, settlements: Sequence[Settlement]) -> None:
        """Carry out these settlements and those of finished runs, then leave.

        For a process that cannot shut down cleanly.

        Raises:
            Unreachable: The store does not answer.
        """
        self._claiming = False
        mine = {settlement.claim.key for settlement in settlements}
        ended = [message.settlement for message in self.held if message.claim.key not in mine]
        self._exchanging.carry_out([*settlements, *filter(None, ended)])
        self._store.sync()
        self.leave()

    def stop(self) -> None:
        """Settle finished runs, release the rest, drain the outbox, and end."""
        self._claiming = False
        self._stopping = True
        self._news.stop()
        self._wake.set()

    def join(self, timeout: float | None = None) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout)

    def close(self) -> None:
        """Do nothing: ``join`` is enough."""

    def _run(self) -> None:
        while not (self._stopping or self._may_begin()):
            time.sleep(BEGIN_LOOK_S)
        while not self._stopping:
            self._wake.wait(self._sharing.rest_s)
            self._wake.clear()
            try:
                self._turn()
            except AgentpipeError as error:
                self._failed(error)
            except Exception:
                log.exception("unexpected error in the consumer; continuing")
                time.sleep(TICK_S)
        self._last_turn()

    def _turn(self) -> None:
        self._be_a_member()
        if self._is_paused:  # Checked before claiming: a later pause takes effect next turn.
            self.paused_event.set()
        self._claim_and_start(share=self._sharing.look())
        if self._exchanging.has_settled:
            # The next runs have started: they proceed while the disk syncs the previous ones.
            self._disk.notify()
            self._exchanging.has_settled = False
        self._contact.answered("consumer")
        self._failures = 0
        self._end_if_drained()

    def _be_a_member(self) -> None:
        """Join if needed; send a heartbeat if the lease could have lapsed."""
        self.membership.ensure()
        if self._failures or self.membership.is_in_doubt:
            self.membership.heartbeat()

    def _claim_and_start(self, *, share: bool) -> None:
        """Settle finished runs, then claim and start runs until the store has no more."""
        posted = self.refill.posted
        while claimed := self._exchange(share=share):
            if self.membership.is_in_doubt:
                self._release(claimed)  # A task could still run here under an older claim.
                break
            self._loop.start_runs(claimed)
            self.refill.done(posted)
            self._end_cancelled(self._exchanging.cancelled)
            if len(claimed) < CLAIM_BATCH:
                break  # ``wait`` returns when there is more.
        self.refill.done(posted)

    def _settled_meanwhile(self) -> None:
        """Called on a store thread when it has settled claims durably, or has failed to."""
        self._forwarder.notify()
        if self._exchanging.has_failed or not len(self._held):
            self._wake.set()

    def _end_if_drained(self) -> None:
        if not self._draining.is_on or len(self._held) or self._stopping:
            return
        if self.membership.is_joined:
            self._forwarder.stop(SHUTDOWN_S)
            self.leave()
        self.drained()

    def _release(self, messages: list[ClaimedMessage]) -> None:
        """Give back claims whose runs have not started."""
        for message in messages:
            message.settlement = Settlement(message.claim, "release")
        self.settle_soon(messages)

    def _may_claim(self) -> bool:
        free = not (self._draining.is_on or self._is_paused)
        return self._claiming and free and self.membership.is_complete

    @property
    def _is_paused(self) -> bool:
        return self._paused or self._loop.is_paused

    def _last_turn(self) -> None:
        """Settle, drain and leave; give an unreachable store SHUTDOWN_S to come back."""
        self._disk.stop()
        deadline = time.monotonic() + SHUTDOWN_S
        while time.monotonic() < deadline:
            try:
                self._exchanging.settle_ended()
                self._store.sync()
                self._forwarder.stop(max(0.0, deadline - time.monotonic()))
                self.leave()
            except AgentpipeError as error:
                self._failed(error)
            else:
                return

    def _exchange(self, *, share: bool) -> list[ClaimedMessage]:
        """Settle finished runs; return the new claims."""
        worker = self.membership.worker if self._may_claim() else None
        claimed = self._exchanging.turn(worker, self._loop, share=share)
        if share and not claimed:
            self._sharing.begin()
        return claimed

    def _note_cancelled(self, cancelled: Collection[str]) -> None:
        """Cancel running tasks and remember the rest: the signal can precede the claim."""
        self._exchanging.note_cancelled(cancelled)
        self._end_cancelled(cancelled)

    def _end_cancelled(self, cancelled: Collection[str]) -> None:
        if cancelled and (ended := self._held.of_tasks(cancelled)):
            self._loop.cancel(ended)

    def _wake_up(self) -> None:
        self._sharing.begin_soon()
        self._wake.set()

    def _failed(self, error: AgentpipeError) -> None:
        self._contact.failed("consumer", error)
        self._failures += 1
        time.sleep(delay_s(self._failures, OUTAGE_PAUSE_S, MAX_OUTAGE_PAUSE_S))
        self._wake.set()

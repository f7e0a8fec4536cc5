"""Forwarder: moves results from the outbox to the sink, in confirmed batches.

A batch is published, confirmed, and only then dropped from the outbox. After a crash in between it
is published again, and readers drop duplicates: no crash loses a result.
"""

from __future__ import annotations

import logging
import threading
import time
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import HandsOver, KeepsUndeliverable, ReturnsResults
from agentpipe.core.backoff import delay_s
from agentpipe.core.failures import error_line
from agentpipe.core.masking import masked
from agentpipe.errors import AgentpipeError, Unreachable
from agentpipe.worker.outbox.publishing import publish
from agentpipe.worker.times import BRIEFLY_S

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import OutboxRecord, Refusal, Worker
    from agentpipe.sinks.base import Sink
    from agentpipe.worker.contact import BrokerContact

BATCH = 500
BATCH_BYTES = 8 * 1024 * 1024
LOOK_EVERY_S = 1.0
FEW, PACE_S, MAX_PACE_S = 2, 0.05, 0.2
# Batches are collected for this many times the processor time of the last one: each costs the same
# few requests, however many results it has.
PACE_PER_COST = 20
# The pace if tasks are settled only once the sink has their results.
BRIEF_PACE_S, MAX_BRIEF_PACE_S, BRIEF_PACE_PER_COST = 0.003, 0.01, 10
PAUSE_S, MAX_PAUSE_S = 0.2, 5.0
# After this many failures of the sink, other workers get what this one has: their sinks may work.
RETURN_AFTER = 3
STORE_PAUSE_S = 0.25
# This thread, for ``Contact``.
_WHO = "forwarder"

log = logging.getLogger(__name__)


class Forwarder:
    """Forwards in its own thread, which opens and closes the sink."""

    def __init__(
        self, store: Store, worker: Worker, open_sink: Callable[[], Sink], contact: BrokerContact
    ) -> None:
        self._store, self._worker, self._open_sink = store, worker, open_sink
        self._contact = contact
        self._sink: Sink | None = None
        self._batch: list[OutboxRecord] = []
        self._refused: list[Refusal] = []
        self._published = False
        self._forwarded, self._hold_tasks = 0, False
        self._failures = 0
        self._taken_at: float | None = None
        self._failing: tuple[str, float] | None = None
        # While results are being taken, the store knows of more than this process does.
        self._taking = threading.Lock()
        self._filled, self._hurried = threading.Event(), threading.Event()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="agentpipe-forwarder", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def notify(self) -> None:
        """Wake the thread: there are results in the outbox."""
        self._filled.set()

    def hurry(self) -> None:
        """Wake the thread: there are results whose tasks wait for the sink."""
        self._hurried.set()
        self._filled.set()

    @property
    def carrying_s(self) -> float:
        """Age of the batch that the sink has not confirmed; thread-safe."""
        taken_at = self._taken_at
        return 0.0 if taken_at is None else time.monotonic() - taken_at

    @property
    def failing(self) -> tuple[str, float] | None:
        """Why the sink refuses results, and for how many seconds; thread-safe."""
        failing = self._failing
        return failing and (failing[0], time.monotonic() - failing[1])

    @contextmanager
    def forwarding(self) -> Iterator[list[int] | None]:
        """Yield the numbers of the results in transit, and take no others meanwhile.

        Yield None if results are just being taken.
        """
        free = self._taking.acquire(timeout=BRIEFLY_S)
        try:
            yield [record.number for record in self._batch] if free else None
        finally:
            if free:
                self._taking.release()

    def stop(self, timeout_s: float) -> None:
        """Forward what is left and end; what a failing sink refuses stays in the outbox."""
        self._stopping.set()
        self.hurry()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        self._connect()
        if isinstance(self._store, HandsOver):
            self._store.hand_over(self.hurry)
        while True:
            self._filled.wait(LOOK_EVERY_S)
            self._filled.clear()
            stopping = self._stopping.is_set()
            begun_s = time.thread_time()
            while self._forward():
                # Forward a few results at once; wait to collect many into batches.
                if self._hold_tasks or self._forwarded > FEW:
                    self._collect(time.thread_time() - begun_s)
                begun_s = time.thread_time()
            if stopping or (self._stopping.is_set() and self._failing):
                break
        if self._sink is not None:
            self._sink.close()

    def _collect(self, cost_s: float) -> None:
        """Wait for further results, less long while tasks wait for the sink.

        ``cost_s`` is the processor time of the last batch.
        """
        if self._hold_tasks:
            self._stopping.wait(_brief_pace_s(cost_s))
        elif not self._stopping.is_set():
            self._hurried.wait(_pace_s(cost_s))
        self._hurried.clear()

    def _connect(self) -> None:
        """Connect before the first result; a failure is logged once there is one."""
        with suppress(Exception):
            self._sink = self._open_sink()
            self._sink.publish([])

    def _forward(self) -> bool:
        """Forward one batch; return whether there can be more."""
        try:
            if not self._batch:
                limit = 1 if self._failures >= RETURN_AFTER else BATCH
                with self._taking:
                    self._batch = self._store.take_outbox(self._worker, limit, BATCH_BYTES)
                self._contact.answered(_WHO)  # Also if the sink takes nothing for a long time.
                self._taken_at = time.monotonic() if self._batch else None
            if not self._batch:
                if self._failing:  # Others may have taken all: see whether the sink answers again.
                    self._publish()
                return False
            self._published = self._published or self._publish()
            if self._published:
                done_with(self._store, self._worker, self._batch, self._refused)
                self._contact.answered(_WHO)
                self._forwarded = len(self._batch)
                self._hold_tasks = self._batch[-1].holds_task
                more = self._stopping.is_set() or _may_leave_more(self._batch)
                self._batch, self._published, self._taken_at = [], False, None
                return more
        except Unreachable as error:
            self._contact.failed(_WHO, error)
            self._stopping.wait(STORE_PAUSE_S)
        except AgentpipeError as error:
            log.error("the broker answers the forwarder with an error: %s", error)  # noqa: TRY400 - the error's text is enough
            self._stopping.wait(MAX_PAUSE_S)
        except Exception:
            log.exception("unexpected error in the forwarder; continuing")
            self._stopping.wait(MAX_PAUSE_S)
        return not self._stopping.is_set()

    def _publish(self) -> bool:
        try:
            if self._sink is None:
                self._sink = self._open_sink()
            self._refused = publish(self._sink, self._batch)
        except Exception as error:  # noqa: BLE001 - a sink can be third-party code
            self._failed(error)
            return False
        self._failing = None
        if self._batch:  # A sink that answers can still refuse each result.
            self._recovered()
        return True

    def _failed(self, error: Exception) -> None:
        if not self._failures:
            bug = None if isinstance(error, AgentpipeError) else error
            log.warning("results wait in the outbox: %s", error, exc_info=bug)
        if not self._failing:
            self._failing = masked(error_line(error)), time.monotonic()
        self._failures += 1
        if self._failures >= RETURN_AFTER and self._batch:
            self._return()
        self._stopping.wait(delay_s(self._failures, PAUSE_S, MAX_PAUSE_S))

    def _return(self) -> None:
        if isinstance(self._store, ReturnsResults):
            with self._taking:
                self._store.return_outbox(self._worker, [each.number for each in self._batch])
                self._batch, self._taken_at = [], None

    def _recovered(self) -> None:
        if self._failures:
            log.warning("the sink takes results again, after %d tries", self._failures)
        self._failures = 0


def _pace_s(cost_s: float) -> float:
    return min(MAX_PACE_S, max(PACE_S, cost_s * PACE_PER_COST))


def _brief_pace_s(cost_s: float) -> float:
    return min(MAX_BRIEF_PACE_S, max(BRIEF_PACE_S, cost_s * BRIEF_PACE_PER_COST))


def _may_leave_more(batch: Sequence[OutboxRecord]) -> bool:
    """Whether the outbox can hold more behind this batch; later results notify the thread.

    Behind a small batch there can be a result too large to fit with it: the next look finds that.
    """
    size = sum(len(each.payload) for each in batch)
    return batch[-1].holds_task or len(batch) > FEW or size > BATCH_BYTES // BATCH


def done_with(
    store: Store, worker: Worker, batch: Sequence[OutboxRecord], refused: Sequence[Refusal]
) -> None:
    """Set aside what the sink refuses, and drop what it confirmed."""
    if refused and isinstance(store, KeepsUndeliverable):
        store.set_aside(worker, refused)
    elif refused:  # Refused records stay borrowed, so the others can proceed.
        log.error("this broker keeps no undeliverable results: %d stay in the outbox", len(refused))
    aside = {each.record.number for each in refused}
    confirmed = [each.number for each in batch if each.number not in aside]
    if confirmed:
        store.drop_outbox(worker, confirmed)


def drain(store: Store, worker: Worker, sink: Sink) -> int:
    """Forward the whole outbox in the caller's thread; return the number of results.

    For commands that complete tasks when no worker may be running.
    """
    forwarded = 0
    deadline = time.monotonic() + worker.lease_s / 2
    while time.monotonic() < deadline:
        batch = store.take_outbox(worker, BATCH, BATCH_BYTES)
        if not batch:
            break
        done_with(store, worker, batch, publish(sink, batch))
        forwarded += len(batch)
    return forwarded

"""WorkerMiddleware: a Dramatiq middleware that replaces Dramatiq's delivery with ours.

Dramatiq's worker has a thread or two per queue and one per running task. Ours has one consumer for
all queues and one event loop for all runs, so a thousand waiting agents cost about as much as one.
``PRIVATE_NAMES`` lists the private names of Dramatiq that it needs.
"""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import resource
import sys
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

import dramatiq

from agentpipe.brokers.capabilities import BreaksOnFailures, DeliversAhead
from agentpipe.core.garbage import collect_rarely
from agentpipe.core.logs import quote_output
from agentpipe.core.text import counted
from agentpipe.core.thread_marks import write_marks_to
from agentpipe.engines.policies import NO_POLICIES
from agentpipe.errors import AgentCrashed
from agentpipe.sending.broker import StoreBroker
from agentpipe.worker.boot_end import ended_on_failure
from agentpipe.worker.claims.configs import say_conflicts
from agentpipe.worker.claims.consumer import Consumer
from agentpipe.worker.claims.exchange import most_held
from agentpipe.worker.claims.lease_keeper import LeaseKeeper
from agentpipe.worker.contact import BrokerContact
from agentpipe.worker.ending.cut_off import CutOff
from agentpipe.worker.ending.drained_end import DrainedEnd
from agentpipe.worker.ending.idle_end import IdleEnd
from agentpipe.worker.ending.process_end import ProcessEnd
from agentpipe.worker.ending.watchdog import Watchdog
from agentpipe.worker.handshake import has_booted
from agentpipe.worker.loop.blocked_loop import Blame
from agentpipe.worker.loop.event_loop import EventLoop
from agentpipe.worker.loop.signals import Signals
from agentpipe.worker.outbox.forwarder import Forwarder
from agentpipe.worker.running.served_actor import served_actors, time_limit_s
from agentpipe.worker.running.slots import DRAMATIQ_THREADS, slots_for
from agentpipe.worker.watch.last_word import LastWord

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.records import Worker
    from agentpipe.engines.policies import LivePolicies
    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Sink
    from agentpipe.worker.loop.message_loop import LoopDeath
    from agentpipe.worker.outcomes.results import ResultsMiddleware
    from agentpipe.worker.watch.pulse import Pulse

# Attributes of dramatiq.Worker that we replace, set, fill or read.
PRIVATE_NAMES = (
    "_add_consumer",
    "_add_worker",
    "worker_threads",
    "consumer_whitelist",
    "consumers",
    "workers",
)

# A thread that returns from the disk waits at most this long for the interpreter. Python's default
# of 5 ms would dominate the processing time of a short task.
SWITCH_INTERVAL_S = 0.0005

log = logging.getLogger(__name__)


class WorkerMiddleware(dramatiq.Middleware):
    """Installs the consumer and the event loop in the Dramatiq worker that boots."""

    def __init__(
        self,
        worker: Worker,
        settings: Settings,
        results: ResultsMiddleware,
        open_sink: Callable[[], Sink],
        pulse: Pulse | None = None,
        *,
        policies: LivePolicies = NO_POLICIES,
        booted: Callable[[], None] = lambda: None,
    ) -> None:
        self._booted = booted
        self._worker, self._settings, self._policies = worker, settings, policies
        self._results, self._open_sink = results, open_sink
        self._pulse = pulse
        self._consumer: Consumer | None = None
        self._contact = BrokerContact()
        self._threads = DRAMATIQ_THREADS

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Replace what would start a thread per queue and per task."""
        with ended_on_failure(may_end=self._may_end):
            self._prepare(broker, worker)

    def _prepare(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        assert isinstance(broker, StoreBroker)
        quote_output()
        self._word = LastWord.of("") if self._pulse is None else self._pulse.word
        self._forwarder = Forwarder(broker.store, self._worker, self._open_sink, self._contact)
        self._consumer = self._made_consumer(broker)
        self._end_process = ProcessEnd(self._consumer, self._results.released)
        self._loop = self._made_loop(broker, self._consumer)
        self._results.capacity.relieve = self._loop.close_idle
        self._consumer.drained = DrainedEnd(broker.store, self._settings, may_end=self._may_end)
        self._threads, worker.worker_threads = worker.worker_threads, 1
        _install(worker, self._consumer, self._loop)

    def _made_consumer(self, broker: StoreBroker) -> Consumer:
        return Consumer(
            broker.store,
            self._settings,
            partial(self._results.settlement_of, broker),
            self._forwarder,
            self._results.capacity,
            word=self._word,
            contact=self._contact,
            policies=self._policies,
        )

    def _made_loop(self, broker: StoreBroker, consumer: Consumer) -> EventLoop:
        return EventLoop(
            broker,
            Signals(broker, self._results),
            consumer.settle_soon,
            settle_many=consumer.settle_and_refill,
            together=consumer.refill.together,
            grace_s=self._settings.grace_s,
            died=partial(self._loop_died, broker),
            word=self._word,
        )

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Start claiming, now that all queues are known."""
        with ended_on_failure(may_end=self._may_end):
            self._begin(broker, worker)

    def _begin(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        assert isinstance(broker, StoreBroker)
        assert self._consumer is not None
        slots = self._settings.slots or slots_for(broker, self._threads)
        queues = frozenset(worker.consumers)
        served = replace(self._worker, pid=os.getpid(), slots=slots, queues=queues)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        collect_rarely()
        _raise_file_limit()
        self._serve(served)
        if isinstance(broker.store, DeliversAhead):
            broker.store.note_ahead(self._word)
        # From here on threads can hold claims, and the consumer's thread takes the event's lock to
        # check whether the master was notified. A process that exited at once would keep that lock,
        # and the master would wait forever.
        self._booted()
        self._loop.start()
        self._forwarder.start()
        self._consumer.begin(served, self._loop, has_booted())
        self._start_keepers(broker, served.lease_s)
        # On a second SIGTERM Dramatiq exits without stopping its worker.
        multiprocessing.util.Finalize(None, self._consumer.leave, exitpriority=10)
        size = f"{counted(len(queues), 'queue')} with {counted(slots, 'slot')}"
        log.info("worker %s serves %s", served.name, size)
        if not self._settings.supervisor_pid:
            say_conflicts(broker.store, self._results.configs, served.name)
        if not isinstance(broker.store, BreaksOnFailures) and _have_breakers(broker):
            log.warning("this broker counts no failures: the key `breaker` has no effect")

    def _start_keepers(self, broker: StoreBroker, lease_s: float) -> None:
        """Start the threads that keep the lease and end runs that must not continue."""
        consumer, loop, contact = self._consumer, self._loop, self._contact
        assert consumer is not None
        self._lease_keeper = LeaseKeeper(
            consumer,
            loop,
            self._forwarder,
            contact,
            lease_s=lease_s,
            also=self._reported,
        )
        self._policies.on_pause(self._lease_keeper.report_soon)
        self._lease_keeper.start()
        lapses = not getattr(broker.store, "away_for_all", False)
        blame = Blame(
            partial(time_limit_s, broker),
            partial(self._results.exceeded, broker),
            partial(self._results.crashed, broker),
        )
        self._watchdog = Watchdog(
            consumer,
            loop,
            CutOff(consumer, loop, contact, self._end_process, lease_s, lapses=lapses),
            lease_s=lease_s,
            blame=blame,
            end_process=self._end_process,
            leaked=self._leaked,
        )
        self._watchdog.start()

    def _leaked(self) -> str:
        """A leaked resource; empty in a user's program, which continues with what is left."""
        return self._results.capacity.leaked if self._may_end else ""

    @property
    def _may_end(self) -> bool:
        """Whether the process is ours to end; a user's program can run this worker."""
        return self._pulse is not None and self._pulse.may_end

    def _reported(self) -> dict[str, Any]:
        return {**self._results.reported(), "policies": self._policies.report}

    def _serve(self, served: Worker) -> None:
        """Start being watched."""
        write_marks_to(self._word)
        places = most_held(served.slots)
        if self._pulse is None:  # A user's program runs this worker.
            self._word.serve(served.name, places)
            return
        assert self._consumer is not None
        self._pulse.orphaned = self._consumer.claim_no_more
        self._pulse.serve(served.name, places)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        """Stop claiming."""
        if self._consumer is not None:
            self._consumer.claim_no_more()
            if self._may_end:
                IdleEnd(self._consumer, self._loop, self._contact).start()

    def after_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        """Stop all threads: the process can continue."""
        if self._consumer is not None:
            self._lease_keeper.stop()
            self._watchdog.stop()
            self._loop.close()

    def _loop_died(self, broker: dramatiq.Broker, death: LoopDeath) -> None:
        """End the process: without its loop it would claim tasks and run none."""
        assert self._consumer is not None
        error = AgentCrashed(f"it ended its worker's event loop: {death.reason}")
        crashed = [
            self._results.crashed(broker, message, error)
            for message in self._consumer.held
            if message is death.culprit and message.settlement is None
        ]
        self._end_process(f"the event loop has ended: {death.reason}", crashed)


def _install(worker: dramatiq.Worker, consumer: Consumer, loop: EventLoop) -> None:
    """Give Dramatiq's worker these two in place of its threads."""
    wanted = worker.consumer_whitelist

    def add_consumer(queue_name: str, *, delay: bool = False) -> None:
        if not delay and (not wanted or queue_name in wanted):
            worker.consumers[queue_name] = consumer  # type: ignore[assignment]  # ours in place of Dramatiq's
            consumer.serve(queue_name)

    def add_worker() -> None:
        worker.workers.append(loop)  # type: ignore[arg-type]  # ours in place of Dramatiq's

    worker._add_consumer = add_consumer  # type: ignore[method-assign]  # noqa: SLF001
    worker._add_worker = add_worker  # type: ignore[method-assign]  # noqa: SLF001


def _have_breakers(broker: dramatiq.Broker) -> bool:
    return any(actor.limits.breaker for actor in served_actors(broker))


def _raise_file_limit() -> None:
    """Raise the limit of open files: agents in threads need files; shells often allow 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # Not every system takes an unlimited hard limit.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

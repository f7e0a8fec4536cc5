"""Workers: a Dramatiq middleware that puts our delivery in the place of Dramatiq's.

Dramatiq's worker has a thread or two per queue and one per running task. Ours has one
consumer for all queues and one event loop for all runs, so that a thousand waiting agents
cost about as much as one. ``PRIVATE_NAMES`` lists what of Dramatiq this relies on.
"""

from __future__ import annotations

import logging
import multiprocessing.util
import os
import resource
import sys
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING

import dramatiq

from agentpipe.sending.actor import AgentActor
from agentpipe.sending.broker import StoreBroker
from agentpipe.worker.consumer import Consumer
from agentpipe.worker.event_loop import LoopThread
from agentpipe.worker.forwarder import Forwarder
from agentpipe.worker.watchdog import Keeper

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.records import Worker
    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Sink
    from agentpipe.worker.results import Results

# Attributes of dramatiq.Worker that we replace, set, fill or read.
PRIVATE_NAMES = (
    "_add_consumer",
    "_add_worker",
    "worker_threads",
    "consumer_whitelist",
    "consumers",
    "workers",
)

MAX_SLOTS = 1_000
# A thread that comes back from the disk waits for the interpreter for so long at the most;
# Python's own 5 ms would be the greater part of a short task's way through the process.
SWITCH_INTERVAL_S = 0.0005

log = logging.getLogger(__name__)


class Workers(dramatiq.Middleware):
    """Installs the consumer and the loop into the Dramatiq worker that boots."""

    def __init__(
        self, worker: Worker, settings: Settings, results: Results, open_sink: Callable[[], Sink]
    ) -> None:
        self._worker, self._settings = worker, settings
        self._results, self._open_sink = results, open_sink
        self._consumer: Consumer | None = None

    def before_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Replace what would make a thread per queue and per task."""
        assert isinstance(broker, StoreBroker)
        forwarder = Forwarder(broker.store, self._worker, self._open_sink)
        consumer = Consumer(broker, self._settings, self._results, forwarder)
        loop = LoopThread(broker, consumer, self._settings.grace_s)
        wanted = worker.consumer_whitelist

        def add_consumer(queue_name: str, *, delay: bool = False) -> None:
            if not delay and (not wanted or queue_name in wanted):
                worker.consumers[queue_name] = consumer  # type: ignore[assignment]

        def add_worker() -> None:
            worker.workers.append(loop)  # type: ignore[arg-type]

        worker._add_consumer = add_consumer  # type: ignore[method-assign]  # noqa: SLF001
        worker._add_worker = add_worker  # type: ignore[method-assign]  # noqa: SLF001
        worker.worker_threads = 1
        self._consumer, self._loop, self._forwarder = consumer, loop, forwarder

    def after_worker_boot(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:
        """Start to claim, now that all queues are known."""
        assert self._consumer is not None
        slots = self._settings.slots or _slots_for(broker)
        queues = frozenset(worker.consumers)
        served = replace(self._worker, pid=os.getpid(), slots=slots, queues=queues)
        sys.setswitchinterval(SWITCH_INTERVAL_S)
        _raise_file_limit()
        self._loop.start()
        self._forwarder.start()
        self._consumer.begin(served, self._loop)
        Keeper(self._consumer, self._loop, self._settings.supervisor_pid).start()
        # A second SIGTERM makes Dramatiq leave without stopping its worker.
        multiprocessing.util.Finalize(None, self._consumer.leave, exitpriority=10)
        log.info("worker %s serves %d queues with %d slots", served.name, len(queues), slots)

    def before_worker_shutdown(self, broker: dramatiq.Broker, worker: dramatiq.Worker) -> None:  # noqa: ARG002 - Dramatiq's signature
        """Claim nothing more."""
        if self._consumer is not None:
            self._consumer.claim_no_more()


def _slots_for(broker: dramatiq.Broker) -> int:
    """As many runs as the actors may have at once, within reason."""
    wanted = 0
    through_gates: Counter[tuple[str, int]] = Counter()
    for actor in broker.actors.values():
        if not isinstance(actor, AgentActor):
            wanted += actor.options.get("concurrency", 1)
        elif actor.spec.concurrency_group is None:
            wanted += actor.collection.concurrency
        else:
            through_gates[actor.spec.concurrency_group, actor.spec.concurrency_group_limit] += (
                actor.collection.concurrency
            )
    wanted += sum(min(limit, runs) for (_, limit), runs in through_gates.items())
    return max(1, min(MAX_SLOTS, wanted))


def _raise_file_limit() -> None:
    """An agent in a thread has a loop, and thus files, of its own; many shells allow only 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with suppress(OSError, ValueError):  # A hard limit without a number is not for all systems.
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))

"""The broker of a worker: collections as Dramatiq actors that run."""

from __future__ import annotations

import os
import socket
import uuid
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.brokers import open_store
from agentpipe.brokers.records import Worker
from agentpipe.engines.policies import LivePolicies
from agentpipe.sending.broker import StoreBroker, declared_broker
from agentpipe.sinks import open_sink
from agentpipe.worker.claims.configs import reported
from agentpipe.worker.claims.draining import last_drain
from agentpipe.worker.middleware import WorkerMiddleware
from agentpipe.worker.outcomes.results import ResultsMiddleware
from agentpipe.worker.runners import make_runners

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from agentpipe.config.collection import Collection
    from agentpipe.settings import Settings
    from agentpipe.worker.watch.pulse import Pulse


def worker_broker(
    collections: Sequence[Collection],
    settings: Settings,
    environ: Mapping[str, str],
    pulse: Pulse | None = None,
    booted: Callable[[], None] = lambda: None,
) -> StoreBroker:
    """A broker whose actors run, as ``dramatiq agentpipe.actors`` serves it.

    Args:
        collections: All that this process serves.
        settings: Broker, sink and limits.
        environ: Values for the ``${VARIABLES}`` of contexts.
        pulse: This process's pulse, if it already beats.
        booted: Called once, in the thread that boots the worker, before that holds anything.

    Raises:
        ConfigError: Listing everything wrong with the agents and contexts.
        Unreachable: The store does not answer.
    """
    policies = LivePolicies(collections)
    runners = make_runners(collections, environ, policies)
    store = open_store(settings)
    worker = Worker(name=_worker_name(), host=socket.gethostname(), lease_s=settings.lease_s)
    if settings.drain_before < 0:  # No supervisor read it before this process started.
        settings = replace(settings, drain_before=last_drain(store, worker.host))
    results = ResultsMiddleware(worker.name, settings.retry_delay_s, reported(collections))
    delivery = WorkerMiddleware(
        worker,
        settings,
        results,
        lambda: open_sink(settings),
        pulse,
        policies=policies,
        booted=booted,
    )
    return declared_broker(store, [results, delivery], collections, runners)


def _worker_name() -> str:
    return f"{socket.gethostname()}-{os.getpid()}-{uuid.uuid4().hex[:6]}"

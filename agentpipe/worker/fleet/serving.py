"""Serving: runs a collection's workers under a supervisor, after its files were checked once."""

from __future__ import annotations

import logging
import os
import signal
import socket
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, NoReturn

from agentpipe.brokers import open_store
from agentpipe.brokers.removed import removed_agents
from agentpipe.config.collection import load
from agentpipe.config.contexts import variables_in
from agentpipe.core.process_privacy import harden, keep_to_contexts, scrub
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.sinks import refuse_invalid
from agentpipe.worker.claims.configs import reported, say_conflicts
from agentpipe.worker.claims.draining import last_drain
from agentpipe.worker.fleet.burst import BurstProgress
from agentpipe.worker.fleet.supervisor import Supervisor
from agentpipe.worker.runners import make_runners

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path
    from types import FrameType

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.settings import Settings

UNFINISHED = 1

log = logging.getLogger(__name__)


def serve(
    path: Path,
    settings: Settings,
    *,
    processes: int | None = None,
    burst: bool = False,
    show: Callable[[str], None] | None = None,
) -> int:
    """Run workers until a signal, or with ``burst`` until nothing more can run.

    Returns the exit code; with ``burst`` it is 1 if tasks are left that cannot run, and ``show``
    gets a progress line at each check.

    The collection is checked first, so a mistake is reported once and not by each worker.

    Raises:
        ConfigError: With everything that is wrong with the collection.
        Unreachable: The broker does not answer.
    """
    with _ending_at_once():
        return _serve(path, settings, processes, burst=burst, show=show)


@contextmanager
def _ending_at_once() -> Iterator[None]:
    """End this process with exit code 0 on a SIGTERM that arrives before a worker starts.

    Without a handler, the first process of a container would not get the signal. Nothing is held
    yet. An exception would not do: an import that it interrupts could catch it.
    """

    def end(_kind: int, _frame: FrameType | None) -> NoReturn:
        os._exit(0)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _serve(
    path: Path,
    settings: Settings,
    processes: int | None,
    *,
    burst: bool,
    show: Callable[[str], None] | None,
) -> int:
    harden()
    scrub()
    collections = _checked(path, settings)
    with closing(open_store(settings)) as store:
        before = last_drain(store, socket.gethostname())
        settings = replace(settings, collection_file=path.absolute(), drain_before=before)
        _declare(store, collections)
        progress = _progress(store, collections, show) if burst else None
        done = progress.is_done if progress else None
        code = Supervisor(settings, os.environ, processes or os.cpu_count() or 1, done).run()
        return _code_of_burst(progress, code) if progress else code


def _checked(path: Path, settings: Settings) -> Sequence[Collection]:
    """Check the sink, load the collections, and check that their agents can be made."""
    refuse_invalid(settings)
    collections = load(path, settings.max_queue_size)
    keep_to_contexts(variables_in(collections))
    make_runners(collections, os.environ)
    return collections


def _declare(store: Store, collections: Sequence[Collection]) -> None:
    """Declare the agents; log configs that differ, and removed agents that still have tasks."""
    Dispatcher(store).declare(collections, serves=True)
    say_conflicts(store, reported(collections))
    for each in removed_agents(store.stats(), _names(collections)):
        log.warning("%s", each.sentence)


def _progress(
    store: Store, collections: Sequence[Collection], show: Callable[[str], None] | None
) -> BurstProgress:
    queues = frozenset(agent.queue for each in collections for agent in each.agents)
    return BurstProgress(store, queues, _names(collections), show)


def _names(collections: Sequence[Collection]) -> frozenset[str]:
    return frozenset(each.name for each in collections)


def _code_of_burst(progress: BurstProgress, code: int) -> int:
    """Log what a burst leaves behind; return its exit code. Its supervisor returned ``code``."""
    if not code:
        progress.say_dead()
    return UNFINISHED if progress.say_left() and not code else code

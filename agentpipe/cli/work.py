"""``agentpipe work``: run workers until told to end, or until all is done."""

from __future__ import annotations

import logging
import os
import time
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe import logs
from agentpipe.cli.common import (
    add_common,
    collection_file,
    opened_store,
    say_where,
    settings_of,
)
from agentpipe.errors import ConfigError
from agentpipe.stats import is_done

if TYPE_CHECKING:
    import argparse
    from pathlib import Path

    from agentpipe.brokers.store import Store
    from agentpipe.settings import Settings

SURE_AFTER_S = 0.5

log = logging.getLogger(__name__)


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "--processes", metavar="N", type=int, help="worker processes (default: one per core)"
    )
    parser.add_argument(
        "--slots",
        metavar="N",
        type=int,
        help="runs at once per process (default: as many as the agents may have)",
    )
    parser.add_argument("--burst", action="store_true", help="end when nothing is left to do")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run as the options say."""
    _refuse_below_one(args)
    settings = settings_of(args)
    settings = replace(settings, slots=args.slots or settings.slots)
    path = collection_file(args, settings)
    return serve(path, settings, processes=args.processes, burst=args.burst)


def serve(
    path: Path, settings: Settings, *, processes: int | None = None, burst: bool = False
) -> int:
    """Check the collection first, so that a mistake is one message and not one a worker."""
    from agentpipe.collection import load
    from agentpipe.compile import make_runners
    from agentpipe.dispatcher import Dispatcher
    from agentpipe.supervise import Supervisor

    collections = load(path, settings.max_queue_size)
    make_runners(collections, os.environ)
    settings = replace(settings, collection_file=path.absolute())
    logs.configure(settings)
    say_where(settings)
    queues = frozenset(agent.queue for each in collections for agent in each.agents)
    with opened_store(settings) as store:
        Dispatcher(store).declare(collections)
        done = _Burst(store, queues).is_done if burst else None
        wanted = processes or os.cpu_count() or 1
        return Supervisor(settings, os.environ, wanted, done).run()


class _Burst:
    """Looks whether all is done, and tells how far it is: often at first, then seldom."""

    def __init__(self, store: Store, queues: frozenset[str]) -> None:
        self._store, self._queues = store, queues
        self._started = time.monotonic()
        self._tell_at = self._started + 1.0
        self._done_at: float | None = None

    def is_done(self) -> bool:
        stats = self._store.stats()
        now = time.monotonic()
        if now >= self._tell_at:
            self._tell_at = now + max(1.0, (now - self._started) / 10)
            open_tasks = (stats.waiting or 0) + (stats.delayed or 0) + (stats.running or 0)
            log.info("%d tasks to go, %d delivered", open_tasks, stats.delivered or 0)
        if not is_done(stats, self._queues):
            self._done_at = None
            return False
        self._done_at = self._done_at or now
        # Where the store keeps no ledger, a task may be on its way back from a dead worker.
        return stats.accepted is not None or now - self._done_at >= SURE_AFTER_S


def _refuse_below_one(args: argparse.Namespace) -> None:
    for name in ("processes", "slots"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is at least 1, not {value}")

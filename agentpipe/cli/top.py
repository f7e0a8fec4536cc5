"""``agentpipe top``: what the fleet does, what holds it up, and keys to do something about it."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
import time
from collections import deque
from dataclasses import replace
from itertools import chain
from typing import TYPE_CHECKING

from agentpipe.cli import INTERRUPTED, OK
from agentpipe.cli.common import (
    add_common,
    collections_of,
    opened_store,
    print_json,
    say,
    settings_of,
)
from agentpipe.core.redaction import without_password
from agentpipe.errors import AgentpipeError, Unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.settings import Settings
    from agentpipe.tui.frame import Scene
    from agentpipe.tui.state import Letter

LEAST_INTERVAL_S = 0.1
# A broker that takes so long to answer is said to be away.
PATIENCE_S = 10.0
# More than anybody reads on a screen; `dead list` has them all.
MAX_LETTERS = 1_000


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--once", action="store_true", help="print one frame, and end")
    parser.add_argument(
        "--interval",
        metavar="S",
        type=_interval_s,
        default=1.0,
        help="seconds between two looks at the broker (default: 1)",
    )
    add_common(parser)


def _interval_s(text: str) -> float:
    try:
        interval_s = float(text)
    except ValueError:
        interval_s = math.nan
    if not LEAST_INTERVAL_S <= interval_s < math.inf:
        raise argparse.ArgumentTypeError(f"seconds, at least {LEAST_INTERVAL_S}, not {text!r}")
    return interval_s


def run(args: argparse.Namespace) -> int:
    """Draw on a terminal; without one, or with ``--once``, print one frame."""
    settings = settings_of(args)
    if args.json:
        return _print_snapshots(args, settings)
    if args.once or not _is_terminal():
        return _print_frame(settings)
    return _draw(args, settings)


def _is_terminal() -> bool:
    able = os.environ.get("TERM", "dumb") != "dumb"
    return able and sys.stdin.isatty() and sys.stdout.isatty()


def _print_snapshots(args: argparse.Namespace, settings: Settings) -> int:
    """A line each; a broker that goes away is waited for."""
    from agentpipe.core.task import utc
    from agentpipe.operations.stats import as_dict

    with opened_store(settings) as store:
        while True:
            try:
                print_json({"at": utc(time.time()), **as_dict(store.stats())})
            except Unreachable as error:
                if args.once:
                    raise
                say(f"the broker does not answer: {error}")
            if args.once:
                return OK
            time.sleep(args.interval)


def _print_frame(settings: Settings) -> int:
    from agentpipe.tui.frame import draw
    from agentpipe.tui.history import History, Snapshot
    from agentpipe.tui.state import View
    from agentpipe.tui.terminal import console

    width, height = shutil.get_terminal_size((80, 24))
    with opened_store(settings) as store:
        history = History().seen(Snapshot(time.monotonic(), store.stats()))
    scene = _scene(settings, time.monotonic(), time.strftime("%H:%M:%S"))
    lines = draw(history, View(), scene, width, height)[:-1]  # There are no keys.
    while lines and not lines[-1]:
        lines.pop()
    for line in lines:
        line.rstrip()
        console().print(line)
    return OK


def _scene(settings: Settings, now: float = 0.0, clock: str = "") -> Scene:
    from agentpipe.tui.frame import Scene

    return Scene(without_password(settings.broker), settings.marks, now, clock)


def _draw(args: argparse.Namespace, settings: Settings) -> int:
    from agentpipe.brokers import open_store
    from agentpipe.tui.actions import Doer
    from agentpipe.tui.fetch import MAX_REST_S, Fetcher
    from agentpipe.tui.screen import Screen, Wake
    from agentpipe.tui.terminal import Terminal

    wake = Wake()
    fetcher = Fetcher(lambda: open_store(settings), args.interval, wake.ring)

    def done() -> None:
        fetcher.hurry()
        wake.ring()

    doer = Doer(StoreHands(args, settings), done)
    fetcher.start()
    doer.start()
    terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno())
    scene = replace(_scene(settings), late_s=PATIENCE_S + MAX_REST_S + args.interval)
    ended_by = Screen(terminal, fetcher, doer, scene, wake).run()
    fetcher.stop()
    if fetcher.problem is not None:
        raise fetcher.problem
    return _ended(ended_by)


def _ended(number: int) -> int:
    """As the signal would have ended us, had we not heard it."""
    if number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return INTERRUPTED if number else OK


class StoreHands:
    """The keys' ``Hands``, each with a connection of its own: they are used seldom."""

    def __init__(self, args: argparse.Namespace, settings: Settings) -> None:
        self._args, self._settings = args, settings

    def pause(self, targets: Sequence[str]) -> str:
        """For the whole fleet, until somebody resumes them."""
        from agentpipe.operations.delivery import pause

        with opened_store(self._settings) as store:
            pause(store, targets, paused=True)
        return "paused; what runs goes on"

    def resume(self, targets: Sequence[str]) -> str:
        """An agent whose collection is paused stays so."""
        from agentpipe.operations.delivery import pause

        with opened_store(self._settings) as store:
            left = pause(store, targets, paused=False).still_paused
        return "paused still, with its collection" if left else "resumed"

    def cancel(self, targets: Sequence[str]) -> str:
        """Those that wait at once; the workers carry the results to the sink."""
        from agentpipe.operations.delivery import Cancelled, cancel_where

        done = Cancelled()
        with opened_store(self._settings) as store:
            collections = {depth.collection for depth in store.stats().queues}
            for name in targets:
                where = {"collection" if name in collections else "queue": name}
                done += cancel_where(store, **where)
        return f"{len(done.cancelled):,} cancelled, {len(done.told):,} that run are told to end"

    def replay(self, task_ids: Sequence[str]) -> str:
        """To the collections that they came from."""
        from agentpipe.operations.dead_letters import Replay, named
        from agentpipe.sending.dispatcher import Dispatcher

        with opened_store(self._settings) as store:
            dispatcher = Dispatcher(store)
            if self._args.collection_file or self._settings.collection_file:
                dispatcher.declare(collections_of(self._args, self._settings))
            done = Replay(store, dispatcher).run(named(store, task_ids))
        if done.problems:
            raise AgentpipeError(done.problems[0])
        return "refused: the queue is full" if done.refused else "sent again, as a new task"

    def dead(self) -> Sequence[Letter]:
        """The newest first, of all that there are: they come by their age."""
        from agentpipe.brokers.base import DeadFilter
        from agentpipe.operations.dead_letters import pages
        from agentpipe.tui.state import Letter

        with opened_store(self._settings) as store:
            found = deque(chain.from_iterable(pages(store, DeadFilter())), MAX_LETTERS)
        now = time.time()
        return [
            Letter(it.task_id, it.queue, it.outcome, it.reason, max(0.0, now - it.died_at))
            for it in reversed(found)
        ]

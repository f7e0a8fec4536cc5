"""``agentpipe top``: watch the fleet, find the bottleneck, and act on it."""

from __future__ import annotations

import argparse
import math
import os
import shutil
import signal
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import INTERRUPTED, OK
from agentpipe.cli.guard import unguarded
from agentpipe.cli.opening import settings_of, store_to_read
from agentpipe.cli.options import add_common, add_run
from agentpipe.cli.output import print_json, say
from agentpipe.core.redaction import without_password
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from agentpipe.settings import Settings
    from agentpipe.tui.frame import Display

LEAST_INTERVAL_S = 0.1
# A broker that does not answer for this long counts as unreachable.
ANSWER_S = 10.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--once", action="store_true", help="print one frame and exit")
    parser.add_argument(
        "--interval",
        metavar="S",
        type=_interval_s,
        default=1.0,
        help="seconds between snapshots (default: 1)",
    )
    add_run(parser, "show this run, also once it has ended")
    add_common(parser)


def _interval_s(text: str) -> float:
    try:
        interval_s = float(text)
    except ValueError:
        interval_s = math.nan
    if not LEAST_INTERVAL_S <= interval_s < math.inf:
        raise argparse.ArgumentTypeError(
            f"expected a number of seconds, at least {LEAST_INTERVAL_S}, got {text!r}"
        )
    return interval_s


def run(args: argparse.Namespace) -> int:
    """Draw on a terminal; without one, or with ``--once``, print one frame."""
    settings = settings_of(args)
    require_tasks(args, settings)
    if args.run_name:
        from agentpipe.operations.runs import kept_run

        with store_to_read(settings) as store:
            kept_run(store, args.run_name)  # Raises for an unknown run.
    if args.json:
        return _print_snapshots(args, settings)
    if args.once or not _is_terminal():
        return _print_frame(args, settings)
    return _draw(args, settings)


def _is_terminal() -> bool:
    able = os.environ.get("TERM", "dumb") != "dumb"
    return able and sys.stdin.isatty() and sys.stdout.isatty()


def _print_snapshots(args: argparse.Namespace, settings: Settings) -> int:
    """Print one snapshot per line; retry while the broker is unreachable."""
    from agentpipe.core.timestamps import utc
    from agentpipe.operations.runs import by_store, kept_run
    from agentpipe.operations.stats import as_dict

    with store_to_read(settings) as store:
        while True:
            try:
                run = (
                    {"run": by_store(kept_run(store, args.run_name)).to_dict()}
                    if args.run_name
                    else {}
                )
                print_json({"at": utc(time.time()), **as_dict(store.stats()), **run})
            except Unreachable as error:
                if args.once:
                    raise
                say(f"broker unreachable, retrying: {error}")
            if args.once:
                return OK
            time.sleep(args.interval)


def _print_frame(args: argparse.Namespace, settings: Settings) -> int:
    from agentpipe.brokers.capabilities import KeepsRuns
    from agentpipe.monitoring.history import FleetHistory, Snapshot
    from agentpipe.tui.frame import draw
    from agentpipe.tui.state import ScreenState
    from agentpipe.tui.terminal import console

    width, height = shutil.get_terminal_size((80, 24))
    with store_to_read(settings) as store:
        kept = tuple(store.runs()) if isinstance(store, KeepsRuns) else ()
        history = FleetHistory().seen(Snapshot(time.monotonic(), store.stats(), kept))
    display = _display(settings, time.monotonic(), time.strftime("%H:%M:%S"))
    lines = draw(history, ScreenState(run=args.run_name or ""), display, width, height)[
        :-1
    ]  # Drop the line of keys.
    while lines and not lines[-1]:
        lines.pop()
    screen = console(unguarded(sys.stdout))
    for line in lines:
        line.rstrip()
        screen.print(line)
    return OK


def _display(settings: Settings, now: float = 0.0, clock: str = "") -> Display:
    from agentpipe.tui.frame import Display

    return Display(without_password(settings.broker), settings.outbox_limits, now, clock)


def _draw(args: argparse.Namespace, settings: Settings) -> int:
    from agentpipe.brokers import open_to_read
    from agentpipe.monitoring.fetch import MAX_REST_S, Fetcher
    from agentpipe.tui.actions import ActionThread
    from agentpipe.tui.screen import Screen, WakePipe
    from agentpipe.tui.state import ScreenState
    from agentpipe.tui.store_actions import StoreActions
    from agentpipe.tui.terminal import Terminal

    pipe = WakePipe()
    fetcher = Fetcher(lambda: open_to_read(settings), args.interval, pipe.wake)

    def refresh() -> None:
        fetcher.refresh()
        pipe.wake()

    file = Path(args.collection_file) if args.collection_file else None
    actions = ActionThread(StoreActions(settings, file), refresh)
    fetcher.start()
    actions.start()
    terminal = Terminal(sys.stdin.fileno(), sys.stdout.fileno())
    display = replace(_display(settings), late_s=ANSWER_S + MAX_REST_S + args.interval)
    state = ScreenState(run=args.run_name or "")
    ended_by = Screen(terminal, fetcher, actions, display, pipe, state=state).run()
    fetcher.stop()
    if fetcher.fatal_error is not None:
        raise fetcher.fatal_error
    return _exit_code(ended_by)


def _exit_code(number: int) -> int:
    """End by the signal itself, so that the parent sees it in the wait status."""
    if number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
        os.kill(os.getpid(), number)
    return INTERRUPTED if number else OK

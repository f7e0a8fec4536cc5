"""``agentpipe work``: run workers until stopped, or until everything is done."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.cli.bottom_line import BottomLine, has_rows
from agentpipe.cli.embedded_files import elsewhere
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.guard import unguarded
from agentpipe.cli.opening import collection_file, settings_of, store_to_read
from agentpipe.cli.options import add_common, refuse_below_one
from agentpipe.cli.output import say, say_where
from agentpipe.core import logs
from agentpipe.core.redaction import without_password
from agentpipe.core.text import counted
from agentpipe.errors import ConfigError
from agentpipe.settings import BROKER_FILE, MAX_SLOTS, embedded_url

if TYPE_CHECKING:
    import argparse

    from agentpipe.brokers.statistics import Stats
    from agentpipe.settings import Settings

MAX_PROCESSES = 1_000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--processes",
        metavar="N",
        type=int,
        help="worker processes (default: one per core)",
    )
    parser.add_argument(
        "--slots",
        metavar="N",
        type=int,
        help="concurrent runs per process (default: as many as the agents allow)",
    )
    parser.add_argument("--burst", action="store_true", help="exit when no task is left")
    parser.add_argument(
        "--watch",
        action="store_true",
        help="restart the workers when a config or an agent's file changes",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="format of the log on stderr (default: $AGENTPIPE_LOG_FORMAT, else text)",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run workers with the settings from options and environment."""
    refuse_below_one("--processes", args.processes)
    if args.processes and args.processes > MAX_PROCESSES:
        # A typo would keep the machine busy starting processes.
        raise ConfigError(
            f"--processes may be at most {MAX_PROCESSES:,}, got {args.processes:,}: one per core "
            "is usual, --slots says how much each runs at once"
        )
    refuse_below_one("--slots", args.slots)
    if args.slots and args.slots > MAX_SLOTS:
        raise ConfigError(f"--slots may be at most {MAX_SLOTS:,}, got {args.slots:,}")
    settings = settings_of(args)
    settings = replace(
        settings,
        slots=args.slots or settings.slots,
        log_format=args.log_format or settings.log_format,
    )
    if args.watch:
        return _serve_watched(args, settings)
    return serve_here(args, settings, processes=args.processes, burst=args.burst)


def _serve_watched(args: argparse.Namespace, settings: Settings) -> int:
    from agentpipe.worker.fleet.restarts import serve_watched

    if args.burst:
        raise ConfigError("--watch goes on until a signal, --burst ends: choose one")
    logs.configure(settings.log_level, settings.log_format)
    options = ["--processes", str(args.processes)] if args.processes else []
    return serve_watched(collection_file(args, settings), settings, options)


def serve_here(
    args: argparse.Namespace,
    settings: Settings,
    *,
    processes: int | None = None,
    burst: bool = False,
) -> int:
    """Run workers for the collection file, logging to this terminal."""
    from agentpipe.worker.fleet.serving import serve

    path = collection_file(args, settings)
    logs.configure(settings.log_level, settings.log_format)
    say_where(settings)
    with BottomLine(unguarded(sys.stderr)) as bottom:
        show = bottom.show if burst and has_rows(sys.stderr) else None
        code = serve(path, settings, processes=processes, burst=burst, show=show)
    if burst and code == OK:
        _say_if_nothing(args, settings)
    return code


def _say_if_nothing(args: argparse.Namespace, settings: Settings) -> None:
    """Report if no task was ever sent here: tasks can wait in another folder's embedded store."""
    if _stats(settings).accepted != 0:  # None if the broker keeps no ledger.
        return
    say(f"no task was ever sent to {without_password(settings.broker)}")
    folder = elsewhere(args, settings, BROKER_FILE)
    if folder is not None and settings.broker == embedded_url(BROKER_FILE):
        url = embedded_url(BROKER_FILE, folder)
        waiting = counted(_stats(replace(settings, broker=url)).waiting or 0, "task")
        say(f"{url} has {waiting} waiting: run the command in {folder}, or add --broker {url}")


def _stats(settings: Settings) -> Stats:
    with store_to_read(settings) as store:
        return store.stats()

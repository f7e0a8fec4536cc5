"""``agentpipe work``: run workers until stopped, or until everything is done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.cli.common import (
    add_common,
    collection_file,
    refuse_below_one,
    say_where,
    settings_of,
)
from agentpipe.core import logs

if TYPE_CHECKING:
    import argparse

    from agentpipe.settings import Settings


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
        "--log-format",
        choices=("text", "json"),
        help="format of the log on stderr (default: $AGENTPIPE_LOG_FORMAT, else text)",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run workers with the settings from options and environment."""
    refuse_below_one("--processes", args.processes)
    refuse_below_one("--slots", args.slots)
    settings = settings_of(args)
    settings = replace(
        settings,
        slots=args.slots or settings.slots,
        log_format=args.log_format or settings.log_format,
    )
    return serve_here(args, settings, processes=args.processes, burst=args.burst)


def serve_here(
    args: argparse.Namespace,
    settings: Settings,
    *,
    processes: int | None = None,
    burst: bool = False,
) -> int:
    """Run workers for the collection file, logging to this terminal."""
    from agentpipe.worker.supervisor import serve

    path = collection_file(args, settings)
    logs.configure(settings.log_level, settings.log_format)
    say_where(settings)
    return serve(path, settings, processes=processes, burst=burst)

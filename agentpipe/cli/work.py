"""``agentpipe work``: run workers until told to end, or until all is done."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.cli.common import add_common, collection_file, say_where, settings_of
from agentpipe.core import logs
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.settings import Settings


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
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="of the lines on stderr (default: $AGENTPIPE_LOG_FORMAT, else text)",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run as the options say."""
    _refuse_below_one(args)
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
    """Workers for the file that the arguments name, with logs on this terminal."""
    from agentpipe.worker.fleet import serve

    path = collection_file(args, settings)
    logs.configure(settings.log_level, settings.log_format)
    say_where(settings)
    return serve(path, settings, processes=processes, burst=burst)


def _refuse_below_one(args: argparse.Namespace) -> None:
    for name in ("processes", "slots"):
        value = getattr(args, name)
        if value is not None and value < 1:
            raise ConfigError(f"--{name} is at least 1, not {value}")

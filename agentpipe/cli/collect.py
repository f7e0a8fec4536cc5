"""``agentpipe collect``: copy a server's stream into an archive."""

from __future__ import annotations

import os
import sys
import time
from contextlib import closing
from dataclasses import asdict, replace
from typing import TYPE_CHECKING
from urllib.parse import quote

from agentpipe.archive.collect import Collector
from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.opening import opened_sink, settings_of
from agentpipe.cli.options import add_common, seconds
from agentpipe.cli.otlp import add_content, group_of, trace_sender
from agentpipe.cli.output import print_either, say
from agentpipe.cli.progress import progress_bar
from agentpipe.cli.signals import stopping
from agentpipe.connections.sqlite_address import parse_url
from agentpipe.core import logs
from agentpipe.core.redaction import without_password
from agentpipe.core.text import counted
from agentpipe.errors import ConfigError
from agentpipe.settings import RESULTS_FILE, embedded_url
from agentpipe.sinks.base import Keeper, check_group

if TYPE_CHECKING:
    import argparse

    from agentpipe.archive.collect import Collected
    from agentpipe.settings import Settings

# A stream without a new record for this long counts as read to its end.
AT_END_S = 2.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--to",
        metavar="FILE",
        help="the archive, created if it is missing (default: the embedded sink of this folder)",
    )
    parser.add_argument(
        "--group",
        metavar="NAME",
        help="read as this group (default: one of the archive's own, so that it resumes)",
    )
    parser.add_argument(
        "--otlp", metavar="URL", help="send traces to this collector instead of keeping results"
    )
    add_content(parser)
    end = parser.add_mutually_exclusive_group()
    end.add_argument("--follow", action="store_true", help="continue until a signal")
    end.add_argument(
        "--timeout",
        metavar="S",
        type=seconds,
        default=AT_END_S,
        help=f"stop after S seconds without a record (default: {AT_END_S:g})",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Collect until the end of the stream, the timeout or a signal."""
    settings = settings_of(args)
    check_group(args.group)
    require_results(args, settings)
    if args.otlp is not None:
        return _send(args, settings)
    if args.content:
        raise ConfigError("--content has no effect without --otlp")
    target = _target(settings, _archive_url(args.to))
    logs.configure(settings.log_level, settings.log_format)
    say(f"from {without_password(settings.sink)} to {_path(target)}")
    begun = time.monotonic()
    with opened_sink(settings) as sink, opened_sink(target) as archive:
        assert isinstance(archive, Keeper)
        group = args.group or archive.reader_group()
        with closing(sink.follow(group, "beginning")) as reader:
            done, code = _collect(args, Collector(reader, archive))
        archive.index()
    _print(args, done, path=_path(target), group=group, took_s=time.monotonic() - begun)
    return code


def _send(args: argparse.Namespace, settings: Settings) -> int:
    """Send traces to a collector; the group resumes after what the collector has accepted."""
    if args.to is not None:
        raise ConfigError("--to and --otlp cannot be together: run one command for each")
    sender = trace_sender(args.otlp, content=args.content)
    logs.configure(settings.log_level, settings.log_format)
    say(f"from {without_password(settings.sink)} to {sender.shown}")
    begun = time.monotonic()
    group = args.group or group_of(sender.shown)
    with opened_sink(settings) as sink, closing(sink.follow(group, "beginning")) as reader:
        done, code = _collect(args, Collector(reader, sender))
    _print(args, done, path=sender.shown, group=group, took_s=time.monotonic() - begun)
    return code


def _archive_url(path: str | None) -> str:
    if path is None:
        return embedded_url(RESULTS_FILE)
    return path if path.startswith("sqlite:") else f"sqlite:///{quote(os.fsencode(path))}"


def _path(settings: Settings) -> str:
    return str(parse_url(settings.sink).path)


def _target(settings: Settings, url: str) -> Settings:
    """Settings whose sink is the archive.

    Raises:
        ConfigError: The archive's file is the sink's or the broker's own file.
    """
    path = parse_url(url).path
    if settings.sink.startswith("sqlite:") and parse_url(settings.sink).path == path:
        raise ConfigError(
            f"{path} is the sink itself, and an archive already: name a server with --sink, or "
            "another file with --to"
        )
    if settings.broker.startswith("sqlite:") and parse_url(settings.broker).path == path:
        raise ConfigError(f"{path} is the broker's file: name another one with --to")
    return replace(settings, sink=url)


def _collect(args: argparse.Namespace, collector: Collector) -> tuple[Collected, int]:
    """Collect until the end or a signal, which ends after the current batch; and the exit code."""
    shown = sys.stderr.isatty() and not args.json
    with (
        stopping(collector.stop) as heard,
        progress_bar("collected", shown=shown, redirect=False) as progress,
    ):
        return collector.run(None if args.follow else args.timeout, progress), heard.exit_code


def _print(
    args: argparse.Namespace, done: Collected, *, path: str, group: str, took_s: float
) -> None:
    rate = round(sum(asdict(done).values()) / took_s, 1)
    record = {**asdict(done), "path": path, "group": group, "took_s": round(took_s, 3)}
    lines = [f"{counted(done.collected, 'new result')} in {path}"]
    if done.repeated:
        lines.append(f"{done.repeated:,} were there")
    if done.skipped:
        lines.append(f"{counted(done.skipped, 'record')} could not be read")
    print_either(args, {**record, "records_per_s": rate}, "; ".join(lines))

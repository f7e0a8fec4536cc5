"""``agentpipe tail``: follow the stream of results."""

from __future__ import annotations

import argparse
import sys
from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import await_results, require_results
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.known_collections import refuse_unknown_collection
from agentpipe.cli.known_runs import refuse_unknown_run, unknown_run
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common, add_run, finite, refuse_below_one, seconds
from agentpipe.cli.output import print_json, print_text, say, say_skipped
from agentpipe.connections.sqlite_address import is_absent, parse_url
from agentpipe.core.outside import json_text
from agentpipe.core.result import OUTCOMES
from agentpipe.core.run_names import is_of_run
from agentpipe.core.text import one_line, printable
from agentpipe.core.timestamps import seconds_of
from agentpipe.errors import ConfigError
from agentpipe.sinks.base import check_group
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    from agentpipe.core.result import Result
    from agentpipe.settings import Settings
    from agentpipe.sinks.base import Start

# Colour only the head of a line: the time and the outcome.
OUTCOME_ENDS = 20


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "--from",
        dest="start",
        type=_start,
        default="now",
        metavar="beginning|now|TIME",
        help="where to start without a saved position (default: now)",
    )
    parser.add_argument("--limit", metavar="N", type=int, help="stop after N results")
    parser.add_argument(
        "--timeout", metavar="S", type=seconds, help="stop after S seconds without a record"
    )
    parser.add_argument("--group", metavar="NAME", help="resume where this group left off")
    parser.add_argument("--collection", metavar="NAME", help="only results of this collection")
    parser.add_argument("--outcome", choices=OUTCOMES, help="only results with this outcome")
    add_run(parser, "only results of this run")
    parser.add_argument(
        "--commit-every",
        metavar="N",
        type=int,
        help="with --group: save the position every N results (default: 1)",
    )
    add_common(parser)


def _start(text: str) -> Start:
    """Parse ``beginning``, ``now``, Unix seconds, or an ISO 8601 time with a zone."""
    if text == "beginning":
        return "beginning"
    if text == "now":
        return "now"
    with suppress(argparse.ArgumentTypeError):
        return finite(text)
    moment = seconds_of(text)
    if moment is None:
        raise argparse.ArgumentTypeError(
            f"expected beginning, now, Unix seconds, or ISO 8601 with a time zone "
            f"(2026-01-31T12:00:00Z), got {text!r}"
        )
    return moment


def run(args: argparse.Namespace) -> int:
    """Print results until the limit, the timeout or Ctrl-C."""
    settings = settings_of(args)
    refuse_unknown_collection(args, settings, args.collection)
    require_results(args, settings)
    return follow(args, settings)


def follow(args: argparse.Namespace, settings: Settings) -> int:
    """Print results as ``run`` does, with the given settings."""
    refuse_below_one("--limit", args.limit)
    refuse_below_one("--commit-every", args.commit_every)
    if args.commit_every is not None and args.group is None:
        raise ConfigError("--commit-every needs --group NAME: only a group saves its position")
    check_group(args.group)
    is_early = is_absent(settings.sink)
    if args.start == "now" and args.group is None and not is_early and sys.stderr.isatty():
        say("new results from now on; --from beginning shows those that are there")
    unknown = unknown_run(settings, args.run_name)
    if unknown:  # The run can still be sent later.
        say(f"{unknown}; waiting for its results")
    printed = _print_stream(args, settings, is_early=is_early)
    if unknown and not printed:
        refuse_unknown_run(settings, args.run_name)
    return OK


def _print_stream(args: argparse.Namespace, settings: Settings, *, is_early: bool) -> int:
    start: Start = args.start
    if is_early:
        say(f"there is no {parse_url(settings.sink).path} yet; waiting for the first result")
        if not await_results(settings, args.timeout):
            return 0
        start = "beginning" if start == "now" else start  # All that is there is new.
    with Stream.open(
        settings,
        group=args.group,
        start=start,
        timeout_s=args.timeout,
        commit_every=args.commit_every or 1,
        patient=True,
    ) as stream:
        return _print_all(args, stream)


def _print_all(args: argparse.Namespace, stream: Stream) -> int:
    printed = 0
    for result in stream:
        if not _is_wanted(args, result):
            continue
        _print(args, result)
        printed += 1
        if printed == args.limit:
            stream.stop()
    say_skipped(stream)
    return printed


def _print(args: argparse.Namespace, result: Result) -> None:
    if args.json:
        print_json(result.to_dict())
    else:
        print_text(_line(result), head=OUTCOME_ENDS)


def _is_wanted(args: argparse.Namespace, result: Result) -> bool:
    if args.collection is not None and result.collection != args.collection:
        return False
    if not is_of_run(result.task_id, args.run_name):
        return False
    return args.outcome is None or result.outcome == args.outcome


def _line(result: Result) -> str:
    at = (result.finished_at or "")[11:19]
    reward = "" if result.reward is None else f" reward {result.reward:g}"
    task_id = printable(result.task_id, keep="")
    head = f"{at} {result.outcome:<11} {task_id} {result.agent}{reward}"
    return f"{one_line(head, 160)}  {one_line(_said(result), 120)}".rstrip()


def _said(result: Result) -> str:
    """The error or the answer; empty for a task that did not run."""
    if result.error is not None:
        return f"{result.error.get('type')}: {result.error.get('message')}"
    if result.result is None and result.outcome != "ok":
        return ""
    return json_text(result.result)

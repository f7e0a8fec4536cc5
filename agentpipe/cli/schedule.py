"""``agentpipe schedule``: send task files at their cron times, or list the next times."""

from __future__ import annotations

from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import collection_file, collections_of, opened_store, settings_of
from agentpipe.cli.options import add_common
from agentpipe.cli.output import print_either, print_json, print_text, say, say_where
from agentpipe.cli.signals import stopping
from agentpipe.core import logs
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.sending.firing import Fired

MAX_COUNT = 1_000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    running = actions.add_parser("run", help="send what is due until stopped")
    running.add_argument("--once", action="store_true", help="send what is due now and exit")
    listing = actions.add_parser("list", help="list each schedule with its next times")
    listing.add_argument(
        "--count", metavar="N", type=int, default=3, help="number of times of each (default: 3)"
    )
    for action, function in ((running, _run), (listing, _list)):
        add_common(action)
        action.set_defaults(action=function)


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    return int(args.action(args))


def _run(args: argparse.Namespace) -> int:
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.firing import check_files
    from agentpipe.sending.scheduler import Scheduler, WallClock, schedules_of

    settings = settings_of(args)
    collections = collections_of(args, settings)
    check_files(collections)
    logs.configure(settings.log_level, settings.log_format)
    say_where(settings)
    clock = WallClock()
    with stopping(clock.stop) as heard, opened_store(settings) as store:
        dispatcher = Dispatcher(store)
        dispatcher.declare(collections)
        schedules = schedules_of(collections, dispatcher, store, partial(_print_fired, args))
        Scheduler(schedules, clock).run(once=args.once)
    return heard.exit_code


def _print_fired(args: argparse.Namespace, fired: Fired) -> None:
    when = fired.fire_time.isoformat()
    counts = f"{fired.accepted} accepted, {fired.duplicates} duplicates"
    record = {**asdict(fired), "fire_time": when}
    print_either(args, record, f"{fired.collection}/{fired.schedule} of {when}: {counts}")


def _list(args: argparse.Namespace) -> int:
    from agentpipe.operations.schedules import list_schedules

    if not 1 <= args.count <= MAX_COUNT:
        raise ConfigError(f"--count {args.count}: give a number from 1 to {MAX_COUNT:,}")
    settings = settings_of(args)
    found = list_schedules(collections_of(args, settings), args.count)
    if args.json:
        print_json({"schedules": found})
        return OK
    for each in found:
        _print(each)
    if not found:
        say(f"no collection in {collection_file(args, settings)} has a schedule")
    return OK


def _print(each: dict[str, Any]) -> None:
    when = f"{each['cron']!r} in {each['timezone']}, missed: {each['missed']}"
    print_text(f"{each['collection']}/{each['name']}  {when}  {each['tasks']}")
    for time in each["next"]:
        print_text(f"  {time['utc']}  {time['local']}")

"""``agentpipe schedule``: send task files when their cron lines say so, and show when that is."""

from __future__ import annotations

import signal
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any

from agentpipe.cli import INTERRUPTED, OK
from agentpipe.cli.common import (
    add_common,
    collections_of,
    opened_store,
    print_json,
    print_text,
    say,
    say_where,
    settings_of,
)
from agentpipe.core import logs
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from agentpipe.config.collection import Collection, ScheduleSpec
    from agentpipe.sending.scheduler import Fired, WallClock

MAX_COUNT = 1_000


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    running = actions.add_parser("run", help="send what is due, until stopped")
    running.add_argument("--once", action="store_true", help="send what is due now, and end")
    listing = actions.add_parser("list", help="each schedule with its next times")
    listing.add_argument(
        "--count", metavar="N", type=int, default=3, help="so many times of each (default: 3)"
    )
    for action, function in ((running, _run), (listing, _list)):
        add_common(action)
        action.set_defaults(action=function)


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    return int(args.action(args))


def _run(args: argparse.Namespace) -> int:
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.scheduler import Scheduler, WallClock, check_files, lines_of

    settings = settings_of(args)
    collections = collections_of(args, settings)
    check_files(collections)
    logs.configure(settings.log_level, settings.log_format)
    say_where(settings)
    clock, ended_by = WallClock(), list[int]()
    _stop_on_signals(clock, ended_by)
    with opened_store(settings) as store:
        dispatcher = Dispatcher(store)
        dispatcher.declare(collections)
        lines = lines_of(collections, dispatcher, store, partial(_tell, args))
        Scheduler(lines, clock).run(once=args.once)
    return INTERRUPTED if signal.SIGINT in ended_by else OK


def _stop_on_signals(clock: WallClock, ended_by: list[int]) -> None:
    """End after the present round trip; a second signal ends at once."""

    def stop(number: int, _frame: object) -> None:
        ended_by.append(number)
        signal.signal(number, signal.SIG_DFL)
        clock.stop()

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, stop)


def _tell(args: argparse.Namespace, fired: Fired) -> None:
    when = fired.fire_time.isoformat()
    if args.json:
        print_json(
            {
                "collection": fired.collection,
                "schedule": fired.schedule,
                "fire_time": when,
                "accepted": fired.accepted,
                "duplicates": fired.duplicates,
            }
        )
        return
    counts = f"{fired.accepted} accepted, {fired.duplicates} duplicates"
    print_text(f"{fired.collection}/{fired.schedule} of {when}: {counts}")


def _list(args: argparse.Namespace) -> int:
    if not 1 <= args.count <= MAX_COUNT:
        raise ConfigError(f"--count {args.count}: give a number from 1 to {MAX_COUNT:,}")
    collections = collections_of(args, settings_of(args))
    found = [_as_dict(each, spec, args.count) for each in collections for spec in each.schedule]
    if args.json:
        print_json({"schedules": found})
        return OK
    for each in found:
        _print(each)
    if not found:
        say("no collection of this file has a `schedule`")
    return OK


def _as_dict(collection: Collection, spec: ScheduleSpec, count: int) -> dict[str, Any]:
    return {
        "collection": collection.name,
        "name": spec.name,
        "cron": spec.cron,
        "timezone": spec.timezone,
        "missed": spec.missed,
        "tasks": str(spec.tasks_file),
        "next": list(_next(spec, count)),
    }


def _next(spec: ScheduleSpec, count: int) -> Iterator[dict[str, str]]:
    from agentpipe.config.cron import Cron

    cron = Cron(spec.cron, spec.timezone)
    moment: datetime | None = datetime.now(UTC)
    for _ in range(count):
        moment = cron.following(moment) if moment else None
        if moment is not None:
            yield {"utc": moment.isoformat(), "local": cron.shown(moment)}


def _print(each: dict[str, Any]) -> None:
    when = f"{each['cron']!r} in {each['timezone']}, missed: {each['missed']}"
    print_text(f"{each['collection']}/{each['name']}  {when}  {each['tasks']}")
    for time in each["next"]:
        print_text(f"  {time['utc']}  {time['local']}")

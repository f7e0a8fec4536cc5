"""``agentpipe dead``: the tasks that were given up."""

from __future__ import annotations

import re
import shutil
import sys
import time
from dataclasses import asdict
from datetime import datetime
from itertools import chain
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.cli import FAILED, FULL, OK, PARTLY
from agentpipe.cli.common import (
    add_common,
    agrees,
    collections_of,
    opened_store,
    print_json,
    print_text,
    say,
    settings_of,
)
from agentpipe.cli.letter import age, as_text, readable
from agentpipe.core.result import OUTCOMES
from agentpipe.core.text import one_line
from agentpipe.core.timestamps import utc
from agentpipe.errors import AgentpipeError, ConfigError, TaskError
from agentpipe.operations import dead_letters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.dead_letter import DeadLetter, DeadSummary
    from agentpipe.operations.dead_letters import DeadStore

# So many are dealt with unasked.
FEW = 3
PAGE = 1_000
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_AGE = re.compile(r"(\d+(?:\.\d+)?)([smhdw])")


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = actions.add_parser("list", help="one line each, oldest first")
    show = actions.add_parser("show", help="all that is known of some")
    replay = actions.add_parser("replay", help="send them again, as new tasks")
    drop = actions.add_parser("drop", help="forget them")
    _add_paging(listing)
    show.add_argument("tasks", metavar="TASK", nargs="+")
    for action in (replay, drop):
        action.add_argument("tasks", metavar="TASK", nargs="*")
        action.add_argument("--all", action="store_true", help="every dead letter")
        action.add_argument("--yes", action="store_true", help="do not ask")
    _add_target(replay)
    for action in (listing, replay, drop):
        _add_filters(action)
    for action, function in ((listing, _list), (show, _show), (replay, _replay), (drop, _drop)):
        add_common(action)
        action.set_defaults(action=function)


def _add_filters(action: argparse.ArgumentParser) -> None:
    action.add_argument("--collection", metavar="NAME", help="only this collection's")
    action.add_argument("--outcome", metavar="OUTCOME", help="only those with this outcome")
    action.add_argument("--error", metavar="TEXT", help="only errors with this in type or message")
    action.add_argument("--older-than", metavar="AGE", help="10m, 3h, 2d, or a time with its zone")
    action.add_argument("--newer-than", metavar="AGE", help="likewise")


def _add_paging(listing: argparse.ArgumentParser) -> None:
    listing.add_argument("--group-by", choices=("error",), help="count each kind of error instead")
    listing.add_argument("--limit", metavar="N", type=int, help="so many (default: a screenful)")
    listing.add_argument("--after", metavar="PLACE", default="", help="go on where a list ended")


def _add_target(replay: argparse.ArgumentParser) -> None:
    replay.add_argument("--to", metavar="COLLECTION", help="to another collection's agents")
    replay.add_argument(
        "--on-full",
        choices=("refuse", "wait"),
        default="refuse",
        help="when every queue is at its bound (default: refuse)",
    )


def run(args: argparse.Namespace) -> int:
    """Do what was asked for."""
    with opened_store(settings_of(args)) as store:
        return int(args.action(args, dead_letters.with_dead_letters(store)))


# What is meant.


def _filter(args: argparse.Namespace) -> DeadFilter:
    if args.outcome is not None and args.outcome not in OUTCOMES:
        raise ConfigError(f"no outcome is called {args.outcome!r}: there are {', '.join(OUTCOMES)}")
    return DeadFilter(
        collection=args.collection,
        outcome=args.outcome,
        error=args.error or "",
        since=_moment("--newer-than", args.newer_than),
        until=_moment("--older-than", args.older_than),
    )


def _moment(option: str, text: str | None) -> float | None:
    if text is None:
        return None
    if found := _AGE.fullmatch(text):
        return time.time() - float(found[1]) * _UNITS_S[found[2]]
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise ConfigError(
            f"{option} {text[:40]!r}: write an age such as 10m, 3h or 2d, "
            "or a time such as 2026-01-31T08:00Z"
        )
    return moment.timestamp()


def _chosen(
    args: argparse.Namespace, store: DeadStore, verb: str
) -> Iterator[Sequence[DeadSummary]]:
    """The letters that were named, or those that fit, or all; never all by accident.

    Raises:
        ConfigError: None of these was given, or more than one.
        AgentpipeError: One of those named is not there, or the answer was no.
    """
    wanted = _filter(args)
    ways = [bool(args.tasks), wanted != DeadFilter(), args.all]
    if sum(ways) != 1:
        raise ConfigError("name the tasks, or say which by --collection and the like, or --all")
    if args.tasks:
        batches = list(dead_letters.named(store, args.tasks))
        _make_sure(args, verb, lambda: sum(map(len, batches)))
        return iter(batches)
    _make_sure(args, verb, lambda: dead_letters.count(store, wanted))
    return dead_letters.pages(store, wanted)


def _make_sure(args: argparse.Namespace, verb: str, count: Callable[[], int]) -> None:
    """Ask on a terminal where there are more than a few."""
    if args.yes or not sys.stdin.isatty() or (number := count()) <= FEW:
        return
    if not agrees(f"{verb} {number:,} dead letters?"):
        raise AgentpipeError("nothing was done")


# What is done.


def _list(args: argparse.Namespace, store: DeadStore) -> int:
    wanted = _filter(args)
    if args.limit is not None and args.limit < 1:
        raise ConfigError(f"--limit is at least 1, not {args.limit}")
    if args.group_by:
        return _list_groups(args, dead_letters.groups(store, wanted))
    page = dead_letters.page(store, wanted, args.after, args.limit or _screenful())
    total = store.count_dead(wanted)
    if total is None and page.after is None and not args.after:
        total = len(page.letters)
    if args.json:
        found = [_summary(letter) for letter in page.letters]
        print_json({"dead": found, "next": page.after, "total": total})
        return OK
    for letter in page.letters:
        print_text(_line(letter))
    _say_rest(page.after, len(page.letters), total)
    return OK


def _screenful() -> int:
    return max(10, shutil.get_terminal_size().lines - 3) if sys.stdout.isatty() else PAGE


def _say_rest(after: str | None, shown: int, total: int | None) -> None:
    if after is not None:
        number = f"{shown:,} of {total:,}" if total is not None else f"{shown:,}"
        say(f"{number} shown; the next: --after {after}")
    elif not shown:
        say("no dead letters")


def _line(letter: DeadSummary) -> str:
    head = f"{letter.task_id} {letter.queue} {letter.outcome} {age(letter.died_at)} ago: "
    return head + one_line(letter.reason, 100)


def _list_groups(args: argparse.Namespace, groups: list[dead_letters.Group]) -> int:
    total = sum(group.count for group in groups)
    if args.json:
        told = [
            asdict(each) | {"first": utc(each.first), "last": utc(each.last)} for each in groups
        ]
        print_json({"groups": told, "total": total})
        return OK
    for group in groups:
        print_text(f"{group.count:>7,}  {group.outcome}  {one_line(group.error, 100)}")
        times = f"{age(group.first)} to {age(group.last)} ago"
        print_text(f"         {times}, such as {group.example}")
    say(f"{total:,} dead letters" if total else "no dead letters")
    return OK


def _show(args: argparse.Namespace, store: DeadStore) -> int:
    letters = chain.from_iterable(dead_letters.whole(store, dead_letters.named(store, args.tasks)))
    if args.json:
        print_json({"dead": [_whole(letter) for letter in letters]})
        return OK
    for number, letter in enumerate(letters):
        print_text(f"\n{as_text(letter)}" if number else as_text(letter))
    return OK


def _replay(args: argparse.Namespace, store: DeadStore) -> int:
    from agentpipe.sending.dispatcher import Dispatcher

    dispatcher = Dispatcher(store)
    settings = settings_of(args)
    if args.collection_file or settings.collection_file:
        dispatcher.declare(collections_of(args, settings))
    chosen = _chosen(args, store, "replay")
    done = dead_letters.Replay(store, dispatcher, to=args.to, on_full=args.on_full).run(chosen)
    if done.failed and not done.replayed and not done.refused:
        raise TaskError("\n".join(done.problems))
    for problem in done.problems:
        say(problem)
    _tell_replayed(args, done)
    if not done.refused and not done.failed:
        return OK
    return PARTLY if done.replayed else FULL


def _tell_replayed(args: argparse.Namespace, done: dead_letters.Replayed) -> None:
    if args.json:
        counts = {"refused": done.refused, "failed": done.failed, "task_ids": done.task_ids}
        print_json({"replayed": done.replayed, **counts})
        return
    failed = f", {done.failed} cannot be" if done.failed else ""
    print_text(f"{done.replayed} replayed, {done.refused} refused{failed}")
    if done.refused:
        say(f"{done.refused:,} stay dead letters: their queues are full")


def _drop(args: argparse.Namespace, store: DeadStore) -> int:
    dropped = dead_letters.drop(store, _chosen(args, store, "drop"))
    if args.json:
        print_json({"dropped": dropped})
    else:
        print_text(f"{dropped} dropped")
    return OK if dropped >= len(set(args.tasks)) else FAILED


def _summary(letter: DeadSummary) -> dict[str, Any]:
    return {
        "task_id": letter.task_id,
        "agent": letter.queue,
        "collection": letter.collection,
        "outcome": letter.outcome,
        "reason": letter.reason,
        "died_at": utc(letter.died_at),
    }


def _whole(letter: DeadLetter) -> dict[str, Any]:
    return {
        **_summary(letter),
        "task": readable(letter.payload),
        "result": readable(letter.result),
    }

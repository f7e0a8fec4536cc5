"""``agentpipe dead``: list, show, replay and drop dead letters."""

from __future__ import annotations

import shutil
import sys
from dataclasses import asdict
from itertools import chain
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.capabilities import KeepsUndeliverable, require
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.cli.dead_text import age, as_lines, readable
from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import FAILED, FULL, OK, PARTLY, USAGE
from agentpipe.cli.help_text import EXIT_CODES
from agentpipe.cli.known_runs import refuse_unknown_run
from agentpipe.cli.opening import declare_named, opened_store, settings_of, store_to_read
from agentpipe.cli.options import add_common, add_on_full, add_run, age_or_time, refuse_below_one
from agentpipe.cli.output import confirms, print_either, print_json, print_text, say
from agentpipe.core.did_you_mean import unknown
from agentpipe.core.result import OUTCOMES
from agentpipe.core.text import one_line
from agentpipe.core.timestamps import utc
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.operations import dead_letters

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.brokers.capabilities import KeepsDeadLetters
    from agentpipe.brokers.dead_letter import DeadLetter, DeadSummary
    from agentpipe.operations.dead_letters import DeadStore
    from agentpipe.operations.replay import Replayed

ACTIONS = {
    "list": "list dead letters, oldest first",
    "show": "show whole dead letters",
    "replay": "send dead letters again, as new tasks",
    "drop": "delete dead letters",
}
# Up to this many dead letters are replayed or dropped without confirmation.
FEW = 3
PAGE = 1_000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing, show, replay, drop = (
        actions.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        for name, text in ACTIONS.items()
    )
    _add_paging(listing)
    show.add_argument("tasks", metavar="TASK", nargs="+", help="task ids")
    for action in (replay, drop):
        action.add_argument("tasks", metavar="TASK", nargs="*", help="task ids")
        action.add_argument("--all", action="store_true", help="every dead letter")
        action.add_argument("--yes", action="store_true", help="skip the confirmation")
    for action in (listing, show, replay, drop):
        action.add_argument(
            "--undeliverable", action="store_true", help="results that the sink refuses instead"
        )
    replay.add_argument("--to", metavar="COLLECTION", help="send to this collection instead")
    add_on_full(replay)
    for action in (listing, replay, drop):
        _add_filters(action)
    for action, function in ((listing, _list), (show, _show), (replay, _replay), (drop, _drop)):
        add_common(action)
        action.set_defaults(action=function)


def _add_filters(action: argparse.ArgumentParser) -> None:
    action.add_argument("--collection", metavar="NAME", help="only those of this collection")
    action.add_argument("--outcome", metavar="OUTCOME", help="only those with this outcome")
    add_run(action, "only those of this run")
    action.add_argument("--error", metavar="TEXT", help="only those with this text in the error")
    action.add_argument(
        "--older-than",
        metavar="AGE",
        help="only those that died before: 10m, 3h, 2d or a time with zone",
    )
    action.add_argument(
        "--newer-than",
        metavar="AGE",
        help="only those that died since: 10m, 3h, 2d or a time with zone",
    )


def _add_paging(listing: argparse.ArgumentParser) -> None:
    listing.add_argument("--group-by", choices=("error",), help="count by kind of error")
    listing.add_argument(
        "--limit", metavar="N", type=int, help="number of lines (default: one screen)"
    )
    listing.add_argument("--after", metavar="PLACE", default="", help="continue where a list ended")


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = settings_of(args)
    require_tasks(args, settings)
    refuse_unknown_run(settings, getattr(args, "run_name", None))
    reads = args.action in (_list, _show)
    with store_to_read(settings) if reads else opened_store(settings) as store:
        if not args.undeliverable:
            return int(args.action(args, dead_letters.with_dead_letters(store)))
        keeper = require(store, KeepsUndeliverable, "keep results that the sink refuses")
        if args.action is _replay:
            return _deliver_again(args, keeper)
        return int(args.action(args, keeper.undeliverable))


# Selection.


def _filter(args: argparse.Namespace) -> DeadFilter:
    if args.outcome is not None and args.outcome not in OUTCOMES:
        raise ConfigError(unknown("outcome", args.outcome, OUTCOMES, "of a task"))
    return DeadFilter(
        collection=args.collection,
        outcome=args.outcome,
        error=args.error or "",
        since=age_or_time("--newer-than", args.newer_than),
        until=age_or_time("--older-than", args.older_than),
        run=args.run_name,
    )


def _select(
    args: argparse.Namespace, store: KeepsDeadLetters, verb: str
) -> Iterator[Sequence[DeadSummary]]:
    """Dead letters by id, by filter, or all; exactly one of these must be given.

    Raises:
        AgentpipeError: An id has no dead letter, or the user declined.
    """
    wanted = _filter(args)
    ways = [bool(args.tasks), wanted != DeadFilter(), args.all]
    if sum(ways) != 1:
        raise ConfigError("give task ids, or filters such as --collection, or --all")
    if args.tasks:
        batches = list(dead_letters.named(store, args.tasks))
        _confirm(args, verb, lambda: sum(map(len, batches)))
        return iter(batches)
    _confirm(args, verb, lambda: dead_letters.count(store, wanted))
    return dead_letters.pages(store, wanted)


def _confirm(args: argparse.Namespace, verb: str, count: Callable[[], int]) -> None:
    """Ask for confirmation on a terminal if there are more than ``FEW``."""
    if args.yes or not sys.stdin.isatty() or (number := count()) <= FEW:
        return
    if not confirms(f"{verb} {number:,} {_noun(args)}s?"):
        raise AgentpipeError("nothing changed")


# Actions.


def _noun(args: argparse.Namespace) -> str:
    return "undeliverable result" if args.undeliverable else "dead letter"


def _key(args: argparse.Namespace) -> str:
    return "undeliverable" if args.undeliverable else "dead"


def _list(args: argparse.Namespace, store: KeepsDeadLetters) -> int:
    wanted = _filter(args)
    refuse_below_one("--limit", args.limit)
    if args.group_by:
        return _list_groups(args, dead_letters.groups(store, wanted))
    page = dead_letters.page(store, wanted, args.after, args.limit or _screenful())
    total = store.count_dead(wanted)
    if total is None and page.after is None and not args.after:
        total = len(page.letters)
    if args.json:
        found = [_summary(letter) for letter in page.letters]
        print_json({_key(args): found, "next": page.after, "total": total})
        return OK
    for letter in page.letters:
        print_text(_line(letter))
    _say_rest(args, page.after, len(page.letters), total)
    return OK


def _screenful() -> int:
    return max(10, shutil.get_terminal_size().lines - 3) if sys.stdout.isatty() else PAGE


def _say_rest(args: argparse.Namespace, after: str | None, shown: int, total: int | None) -> None:
    if after is not None:
        number = f"{shown:,} of {total:,}" if total is not None else f"{shown:,}"
        say(f"{number} shown; for the next: --after {after}")
    elif not shown:
        say(f"no {_noun(args)}s")


def _line(letter: DeadSummary) -> str:
    head = f"{letter.task_id} {letter.queue} {letter.outcome} {age(letter.died_at)} ago: "
    return head + one_line(letter.reason, 100)


def _list_groups(args: argparse.Namespace, groups: list[dead_letters.DeadGroup]) -> int:
    total = sum(group.count for group in groups)
    if args.json:
        found = [
            asdict(each) | {"first": utc(each.first), "last": utc(each.last)} for each in groups
        ]
        print_json({"groups": found, "total": total})
        return OK
    for group in groups:
        print_text(f"{group.count:>7,}  {group.outcome}  {one_line(group.error, 100)}")
        times = f"{age(group.first)} to {age(group.last)} ago"
        print_text(f"         {times}, e.g. {group.example}")
    say(f"{total or 'no'} {_noun(args)}s")
    return OK


def _show(args: argparse.Namespace, store: KeepsDeadLetters) -> int:
    letters = chain.from_iterable(dead_letters.whole(store, dead_letters.named(store, args.tasks)))
    if args.json:
        print_json({_key(args): [_whole(letter) for letter in letters]})
        return OK
    for number, letter in enumerate(letters):
        print_text(*([""] if number else []), *as_lines(letter))
    return OK


def _replay(args: argparse.Namespace, store: DeadStore) -> int:
    from agentpipe.operations.replay import Replay
    from agentpipe.sending.dispatcher import Dispatcher

    dispatcher = Dispatcher(store)
    declare_named(dispatcher, args, settings_of(args))
    replay = Replay(store, dispatcher, to=args.to, on_full=args.on_full)
    done = replay.run(_select(args, store, "replay"))
    if done.failed and not done.replayed and not done.refused:
        say(*done.problems)
        return USAGE
    for problem in done.problems:
        say(problem)
    _print_replayed(args, done)
    if not done.refused and not done.failed:
        return OK
    return PARTLY if done.replayed else FULL


def _print_replayed(args: argparse.Namespace, done: Replayed) -> None:
    counts = {"replayed": done.replayed, "refused": done.refused, "failed": done.failed}
    failed = f", {done.failed} failed" if done.failed else ""
    text = f"{done.replayed} replayed, {done.refused} refused{failed}"
    print_either(args, {**counts, "task_ids": done.task_ids}, text)
    if done.refused and not args.json:
        say(f"{done.refused:,} remain dead letters: their queues are full")


def _deliver_again(args: argparse.Namespace, store: KeepsUndeliverable) -> int:
    """Put results back into the outbox, for the next forwarder."""
    if args.to is not None:
        raise ConfigError("--to is for dead letters: a result goes to the sink of its workers")
    task_ids: list[str] = []
    for batch in _select(args, store.undeliverable, "replay"):
        ids = [letter.task_id for letter in batch]
        store.deliver_again(ids)
        task_ids += ids
    counts = {"replayed": len(task_ids), "refused": 0, "failed": 0}
    text = f"{len(task_ids)} replayed: a worker publishes them again"
    print_either(args, {**counts, "task_ids": task_ids}, text)
    return OK


def _drop(args: argparse.Namespace, store: KeepsDeadLetters) -> int:
    dropped = dead_letters.drop(store, _select(args, store, "drop"))
    print_either(args, {"dropped": dropped}, f"{dropped} dropped")
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
        "task": readable(letter.payload) if letter.payload else None,
        "result": readable(letter.result),
    }

"""``agentpipe cancel``: cancel waiting and running tasks."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.capabilities import ReadsTasks
from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import FAILED, OK, PARTLY
from agentpipe.cli.known_runs import unknown_run
from agentpipe.cli.opening import opened_sink, opened_store, settings_of
from agentpipe.cli.options import add_common, add_run
from agentpipe.cli.output import confirm, print_json, print_text, say, say_where
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.brokers.base import Store
    from agentpipe.operations.cancel import CancelReport
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("tasks", metavar="TASK", nargs="*", help="task ids")
    parser.add_argument("--group", metavar="ID", help="all tasks of this group")
    parser.add_argument("--collection", metavar="NAME", help="all tasks of this collection")
    parser.add_argument("--queue", metavar="AGENT", help="all tasks of this agent")
    add_run(parser, "all tasks of this run")
    parser.add_argument("--all", action="store_true", help="all tasks of the broker")
    parser.add_argument("--yes", action="store_true", help="skip the confirmation of --all")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Cancel tasks and forward their results, in case no worker is running."""
    from agentpipe.operations.delivery import deliver

    _check(args)
    settings = settings_of(args)
    require_tasks(args, settings)
    _refuse_run(args, settings)
    say_where(settings)
    with opened_store(settings) as store, opened_sink(settings) as sink:
        done = _cancel(args, store)
        if done.cancelled:
            deliver(store, sink, settings.lease_s)
    if args.json:
        print_json(done.to_dict())
    else:
        _print(done)
    return _exit_code(args, done)


def _refuse_run(args: argparse.Namespace, settings: Settings) -> None:
    """Refuse an unknown run; only warn if the broker cannot list tasks, as it may hold some."""
    sentence = unknown_run(settings, args.run_name)
    with opened_store(settings) as store:
        lists = isinstance(store, ReadsTasks)
    if sentence and lists:
        raise ConfigError(sentence)
    if sentence:
        say(sentence)


def _check(args: argparse.Namespace) -> None:
    filtered = args.group is not None or args.run_name or args.collection or args.queue
    if sum(map(bool, (args.tasks, filtered, args.all))) != 1:
        raise ConfigError("give task ids, or --group, --run, --collection, --queue or --all")
    if args.group is not None and args.run_name:
        raise ConfigError("a group is of one run: give --group or --run")
    if args.all:
        question = "Cancel every task, also the running ones?"
        confirm(args, question, "--all cancels every task")


def _cancel(args: argparse.Namespace, store: Store) -> CancelReport:
    from agentpipe.operations.cancel import cancel, cancel_matching

    if args.tasks:
        return cancel(store, args.tasks)
    filters = {"collection": args.collection, "queue": args.queue, "group_id": args.group}
    return cancel_matching(store, **filters, run=args.run_name)


def _print(done: CancelReport) -> None:
    print_text(done.sentence)
    for label, ids in (("already settled", done.settled), ("unknown", done.unknown)):
        if ids:
            say(f"{label}: {', '.join(ids)}")


def _exit_code(args: argparse.Namespace, done: CancelReport) -> int:
    reached, missed = done.cancelled + done.told, done.settled + done.unknown
    if not missed and (reached or not args.tasks):
        return OK
    return PARTLY if reached else FAILED

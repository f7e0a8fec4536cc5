"""``agentpipe send``: submit tasks, and with ``--wait`` print their results."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from itertools import chain
from typing import TYPE_CHECKING

from agentpipe.cli import send_group, send_run
from agentpipe.cli.exit_codes import FAILED, FULL, OK, PARTLY
from agentpipe.cli.opening import collections_of, named_collection, opened_sink, settings_of
from agentpipe.cli.options import add_common, add_on_full, refuse_timeout_alone, seconds
from agentpipe.cli.output import print_either, say, say_where
from agentpipe.cli.progress import progress_bar
from agentpipe.core.outside import json_text
from agentpipe.core.text import one_line
from agentpipe.errors import ConfigError, QueueFull, TaskError, Unreachable
from agentpipe.sending.admission import admit
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.sending.refused_results import refusal
from agentpipe.sending.sent import Sent

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable
    from contextlib import AbstractContextManager

    from agentpipe.config.collection import Collection
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.core.result import Result
    from agentpipe.operations.await_results import ResultWaiter
    from agentpipe.sending.admission import AdmittedTask

NAMED = 5


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("collection", metavar="COLLECTION", help="name of a collection")
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="question of one task")
    parser.add_argument(
        "--file", metavar="TASKS", help="JSON Lines, JSON or benchmark file; - for stdin"
    )
    parser.add_argument(
        "--metadata", metavar="K=V", action="append", default=[], help="metadata for each task"
    )
    send_run.add(parser)
    send_group.add(parser)
    add_on_full(parser)
    parser.add_argument("--wait", action="store_true", help="print each result as it arrives")
    parser.add_argument(
        "--timeout", metavar="S", type=seconds, help="with --wait: stop waiting after S seconds"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Send the tasks, and print the counts, or with ``--wait`` the results."""
    settings = settings_of(args)
    if (args.question is None) == (args.file is None):
        raise ConfigError("give one QUESTION, or --file TASKS.jsonl (- for stdin)")
    refuse_timeout_alone(args)
    send_run.check(args)
    send_group.check(args)
    collections = collections_of(args, settings)
    collection = named_collection(collections, args, settings)
    tasks = _nonempty(args, _tasks(args, send_run.rules_for(args, collection)))
    send_run.refuse_unpriced_models(args, collection)
    say_where(settings)
    with ExitStack() as stack:
        waiter = None
        if args.wait:
            from agentpipe.operations.await_results import ResultWaiter

            waiter = ResultWaiter(stack.enter_context(opened_sink(settings)))
            stack.callback(waiter.close)
        dispatcher = Dispatcher.open(collections, settings, results=False)
        stack.callback(dispatcher.close)
        _say_misfits(dispatcher, collection)
        send_run.set_budget(args, dispatcher)
        send_run.begin(args, dispatcher, collection)
        sent = _send(dispatcher, args, tasks)
        if waiter is None:
            return _report(args, sent)
        return _await(args, sent, waiter, dispatcher)


def _say_misfits(dispatcher: Dispatcher, collection: Collection) -> None:
    """Warn of removed agents, of a file older than the fleet's, and of workers with other files."""
    from agentpipe.operations.misfits import misfits

    for sentence in misfits(dispatcher.stats(), [collection]):
        say(sentence)


def _tasks(args: argparse.Namespace, rules: TaskRules) -> Iterable[AdmittedTask]:
    metadata = dict(map(_name_and_value, args.metadata))
    tasks = send_run.chosen(args, _plain_tasks(args, rules))
    if not metadata:
        return tasks
    return (each.with_fields(metadata=each.task.metadata | metadata) for each in tasks)


def _nonempty(args: argparse.Namespace, tasks: Iterable[AdmittedTask]) -> Iterable[AdmittedTask]:
    """The tasks; refuse an empty file before a run begins."""
    left = iter(tasks)
    if (first := next(left, None)) is None:
        source = "stdin" if args.file == "-" else args.file
        raise ConfigError(f"{source}: there is no task in it: nothing was sent")
    return chain([first], left)


def _plain_tasks(args: argparse.Namespace, rules: TaskRules) -> Iterable[AdmittedTask]:
    if args.question is not None:
        return [admit(args.question, rules)]
    from agentpipe.operations.read_tasks import read_tasks

    return read_tasks(args.file, sys.stdin.buffer, rules)


def _name_and_value(pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    if not equals or not name:
        raise ConfigError(f"--metadata {pair!r}: write NAME=VALUE")
    return name, value


def _send(dispatcher: Dispatcher, args: argparse.Namespace, tasks: Iterable[AdmittedTask]) -> Sent:
    batches: list[Sent] = []
    try:
        with _progress("sent", args) as advance:
            for batch in send_group.batches(args, dispatcher, tasks):
                batches.append(batch)
                advance(batch.accepted + batch.duplicates)
    except (TaskError, Unreachable) as error:
        accepted = Sent.of(batches).accepted
        raise type(error)(f"{error}; {accepted} tasks before it were accepted") from error
    return Sent.of(batches)


def _report(args: argparse.Namespace, sent: Sent) -> int:
    counts = {name: getattr(sent, name) for name in ("accepted", "duplicates", "refused")}
    text = ", ".join(f"{number} {name}" for name, number in counts.items())
    print_either(args, {**counts, "task_ids": sent.task_ids}, text)
    _name_duplicates(args, sent)
    return _admission_code(args, sent)


def _name_duplicates(args: argparse.Namespace, sent: Sent) -> None:
    """List duplicates: intended when a file is sent again, otherwise a mistake in its ids."""
    if sent.duplicates:
        shown = ", ".join(sent.duplicate_ids[:NAMED])
        rest = f" and {sent.duplicates - NAMED:,} more" if sent.duplicates > NAMED else ""
        say(f"known already, not sent again: {shown}{rest}")
    _say_all_known(args, sent)


def _say_all_known(args: argparse.Namespace, sent: Sent) -> None:
    if sent.duplicates and not (sent.accepted or sent.refused):
        where = f" in run {args.run_name}: another" if args.run_name else ":"
        say(f"all {sent.duplicates:,} are known{where} --run NAME sends them as a new run")


def _admission_code(args: argparse.Namespace, sent: Sent) -> int:
    if not sent.refused:
        return OK
    say(str(QueueFull(args.collection, sent.depth, sent.bound)))
    return PARTLY if sent.accepted or sent.duplicates else FULL


def _await(
    args: argparse.Namespace, sent: Sent, waiter: ResultWaiter, dispatcher: Dispatcher
) -> int:
    """Print the results; return 0 if all are ok, 5 if some are, 1 if none is."""
    _say_all_known(args, sent)
    if sent.duplicates:
        try:
            waiter.rewind()
        except ConfigError as error:
            say(f"results that are already in the stream are not shown: {error}")
    ids = {*sent.task_ids, *sent.duplicate_ids}
    good = 0
    with _progress("answered", args, total=len(ids)) as advance:
        for result in waiter.results(ids, args.timeout, dispatcher.refused_results):
            good += result.outcome == "ok"
            print_either(args, result.to_dict(), _line(result))
            advance(1)
    _name_refused(waiter)
    if waiter.missing:
        say(f"{len(waiter.missing)} of {len(ids)} tasks have no result yet; they stay in the store")
    if sent.refused:
        return _admission_code(args, sent)
    if good == len(ids):
        return OK
    return PARTLY if good else FAILED


def _name_refused(waiter: ResultWaiter) -> None:
    for letter in waiter.refused[:NAMED]:
        say(refusal(letter))
    if more := len(waiter.refused[NAMED:]):
        say(f"and of {more:,} more: agentpipe dead list --undeliverable")


def _line(result: Result) -> str:
    if result.error is not None:
        return one_line(f"{result.outcome}: {result.error['message']}", 2_000)
    return one_line(json_text(result.result), 2_000)


def _progress(
    label: str, args: argparse.Namespace, total: int | None = None
) -> AbstractContextManager[Callable[[int], None]]:
    to_terminal = sys.stdout.isatty()
    # JSON lines on the same terminal would overwrite the bar.
    shown = sys.stderr.isatty() and not (args.json and to_terminal)
    many = args.file is not None or args.wait
    return progress_bar(label, shown=shown and many, redirect=to_terminal, total=total)

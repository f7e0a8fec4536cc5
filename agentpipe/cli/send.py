"""``agentpipe send``: accept tasks, and with ``--wait`` follow them to their results."""

from __future__ import annotations

import sys
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.cli import FAILED, FULL, OK, PARTLY
from agentpipe.cli.common import (
    add_common,
    collections_of,
    opened_sink,
    print_json,
    print_text,
    say,
    say_where,
    settings_of,
)
from agentpipe.core.did_you_mean import unknown
from agentpipe.core.text import one_line
from agentpipe.errors import ConfigError, QueueFull, TaskError, Unreachable
from agentpipe.sending.admission import admit
from agentpipe.sending.checked_tasks import checked_tasks
from agentpipe.sending.dispatcher import Dispatcher, Sent
from agentpipe.sending.task_files import read_lines, task_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    from agentpipe.core.result import Result
    from agentpipe.sending.admission import AdmittedTask


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("collection", metavar="COLLECTION", help="a collection's name")
    parser.add_argument("question", metavar="QUESTION", nargs="?", help="one task's question")
    parser.add_argument(
        "--file", metavar="TASKS", help="a task a line; JSON; a benchmark; - for stdin"
    )
    parser.add_argument("--metadata", metavar="K=V", action="append", default=[], help="for each")
    parser.add_argument(
        "--on-full",
        choices=("refuse", "wait"),
        default="refuse",
        help="when every queue is at its bound (default: refuse)",
    )
    parser.add_argument("--wait", action="store_true", help="print each Result as it comes")
    parser.add_argument(
        "--timeout", metavar="S", type=float, help="with --wait: give up after S seconds"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Send, and tell what became of the tasks."""
    settings = settings_of(args)
    tasks = _tasks(args)
    collections = collections_of(args, settings)
    _refuse_unknown(args.collection, [collection.name for collection in collections])
    say_where(settings)
    with ExitStack() as stack:
        # Open where the stream is now, so that no result can slip in before we look.
        sink = stack.enter_context(opened_sink(settings)) if args.wait else None
        reader = sink.follow(None, "now") if sink else None
        dispatcher = Dispatcher.open(collections, settings)
        stack.callback(dispatcher.close)
        sent = _send(dispatcher, args, tasks)
        if reader is None or sink is None:
            return _report(args, sent)
        if sent.duplicates:  # Their results may lie in the past.
            reader = _from_the_beginning(sink, reader)
        stack.callback(reader.close)
        return _follow(args, sent, reader)


def _from_the_beginning(sink: Any, reader: Any) -> Any:
    """A reader of all there was, or the one there is where the sink keeps no past."""
    try:
        earlier = sink.follow(None, "beginning")
    except ConfigError as error:
        say(f"results that are in the stream already are not shown: {error}")
        return reader
    reader.close()
    return earlier


def _refuse_unknown(name: str, names: list[str]) -> None:
    if name not in names:
        raise ConfigError(unknown("collection", name, names, "in this file"))


def _send(dispatcher: Dispatcher, args: argparse.Namespace, tasks: Iterable[AdmittedTask]) -> Sent:
    batches: list[Sent] = []
    try:
        with _progress("sent", args) as advance:
            for batch in dispatcher.send_batches(args.collection, tasks, on_full=args.on_full):
                batches.append(batch)
                advance(batch.accepted + batch.duplicates)
    except (TaskError, Unreachable) as error:
        accepted = Sent.of(batches).accepted
        raise type(error)(f"{error}; {accepted} tasks before it were accepted") from error
    return Sent.of(batches)


def _report(args: argparse.Namespace, sent: Sent) -> int:
    if args.json:
        print_json(
            {
                "accepted": sent.accepted,
                "duplicates": sent.duplicates,
                "refused": sent.refused,
                "task_ids": sent.task_ids,
            }
        )
    else:
        counts = f"{sent.accepted} accepted, {sent.duplicates} duplicates, {sent.refused} refused"
        print_text(counts)
    return _admission_code(args, sent)


def _admission_code(args: argparse.Namespace, sent: Sent) -> int:
    if not sent.refused:
        return OK
    say(str(QueueFull(args.collection, sent.depth, sent.bound)))
    return PARTLY if sent.accepted or sent.duplicates else FULL


def _follow(args: argparse.Namespace, sent: Sent, reader: Any) -> int:
    """Print the results of what was sent; 0 if all are ok, 5 if some are, 1 if none is."""
    from agentpipe.sinks.stream import Stream

    missing = set(sent.task_ids + sent.duplicate_ids)
    asked, good = len(missing), 0
    deadline = time.monotonic() + args.timeout if args.timeout is not None else None
    with _progress("answered", args, total=asked) as advance:
        for result in _awaited(Stream, reader, missing, deadline):
            good += result.outcome == "ok"
            _print_result(args, result)
            advance(1)
    if missing:
        say(f"{len(missing)} of {asked} tasks have no result yet; they stay in the store")
    if sent.refused:
        return _admission_code(args, sent)
    if good == asked:
        return OK
    return PARTLY if good else FAILED


def _awaited(
    stream: Any, reader: Any, missing: set[str], deadline: float | None
) -> Iterator[Result]:
    while missing:
        left_s = 1.0 if deadline is None else min(1.0, deadline - time.monotonic())
        if left_s <= 0:
            return
        for result in stream(reader, timeout_s=left_s):
            if result.task_id in missing:
                missing.discard(result.task_id)
                yield result
            if not missing or (deadline is not None and time.monotonic() > deadline):
                break


def _print_result(args: argparse.Namespace, result: Result) -> None:
    if args.json:
        print_json(result.to_dict())
        return
    answer = result.result if isinstance(result.result, str) else orjson.dumps(result.result)
    text = answer if isinstance(answer, str) else answer.decode()
    shown = text if result.error is None else f"{result.outcome}: {result.error['message']}"
    print_text(one_line(shown, 2_000))


def _tasks(args: argparse.Namespace) -> Iterable[AdmittedTask]:
    if (args.question is None) == (args.file is None):
        raise ConfigError("give one QUESTION, or --file TASKS.jsonl (- for stdin)")
    metadata = _metadata(args.metadata)
    return (_with_metadata(task, metadata) for task in _unmarked(args))


def _unmarked(args: argparse.Namespace) -> Iterable[AdmittedTask]:
    """The tasks without the command's metadata; of a file only when all of it is right."""
    if args.question is not None:
        return [admit(args.question)]
    if args.file == "-":
        return _lines(sys.stdin.buffer, "stdin")
    path = Path(args.file)
    if path.suffix.lower() in {".yaml", ".yml"}:
        from agentpipe.sending.benchmarks import load_benchmarks, tasks_of

        return tasks_of(load_benchmarks(path))
    return checked_tasks(path)


def _lines(stream: BinaryIO, name: str) -> Iterator[AdmittedTask]:
    """A task for each line that is not blank."""
    for entry in read_lines(name, stream):
        task, found = task_of(entry)
        if task is None or found:
            raise TaskError("\n".join(map(str, found)))
        yield task


def _metadata(pairs: list[str]) -> dict[str, str]:
    metadata = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name:
            raise ConfigError(f"--metadata {pair!r}: write NAME=VALUE")
        metadata[name] = value
    return metadata


def _with_metadata(task: AdmittedTask, metadata: dict[str, str]) -> AdmittedTask:
    return task.with_fields(metadata=task.task.metadata | metadata) if metadata else task


class _progress:  # noqa: N801 - reads as the function it is
    """A bar on a terminal, nothing elsewhere; gives the function that advances it."""

    def __init__(self, verb: str, args: argparse.Namespace, total: int | None = None) -> None:
        self._verb, self._total = verb, total
        raw = args.json and sys.stdout.isatty()  # Its lines would run through the bar.
        shown = sys.stderr.isatty() and not raw and (args.file is not None or args.wait)
        self._bar: Any = self._make() if shown else None

    def _make(self) -> Any:
        from rich.console import Console
        from rich.progress import BarColumn, MofNCompleteColumn, Progress, TimeElapsedColumn

        columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
        # On one terminal rich prints the data above the bar; in a pipe it must not touch it.
        redirected = sys.stdout.isatty()
        return Progress(
            *columns,
            console=Console(stderr=True),
            transient=True,
            redirect_stdout=redirected,
            redirect_stderr=redirected,
        )

    def __enter__(self) -> Callable[[int], None]:
        if self._bar is None:
            return lambda _number: None
        self._bar.start()
        bar = self._bar.add_task(self._verb, total=self._total)
        return lambda number: self._bar.advance(bar, number)

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

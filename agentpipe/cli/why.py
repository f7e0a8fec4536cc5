"""``agentpipe why``: where tasks are, and why they are not done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.cli import FAILED, OK, PARTLY
from agentpipe.cli.common import (
    add_common,
    encodable,
    opened_sink,
    opened_store,
    print_json,
    print_text,
    say_where,
    settings_of,
)
from agentpipe.core.text import one_line
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.location import TaskLocation
    from agentpipe.operations.explain import Verdict
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("tasks", metavar="TASK", nargs="+", help="ids of tasks")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Look, change nothing, and say."""
    settings = settings_of(args)
    if not args.json:
        say_where(settings)
    found = []
    for verdict in _verdicts([encodable(task) for task in args.tasks], settings):
        if args.json:
            print_json(verdict.to_dict())
        else:
            # An id may have several lines; what is said of it begins on one of its own.
            print_text(f"{one_line(verdict.task_id, 256)}: {verdict.sentence}")
            print_text(f"next: {verdict.next}")
        found.append(verdict.state != "unknown")
    if all(found):
        return OK
    return PARTLY if any(found) else FAILED


def _verdicts(task_ids: Sequence[str], settings: Settings) -> Iterator[Verdict]:
    from agentpipe.brokers.capabilities import LocatesTasks, require
    from agentpipe.operations.explain import verdict

    with opened_store(settings) as store:
        located = require(store, LocatesTasks, "locate tasks")
        for task_id in task_ids:
            facts = located.locate(task_id)
            yield verdict(
                facts, time.time(), settings.outbox_limits, _stream_position(facts, settings)
            )


def _stream_position(facts: TaskLocation, settings: Settings) -> int | None:
    """Where the stream has its Result, where that can be looked up."""
    from agentpipe.connections.plugins import load_for_url
    from agentpipe.sinks.base import Index

    if facts.place not in ("settled", "unknown", "dead"):
        return None
    try:
        if not hasattr(load_for_url("agentpipe.sinks", settings.sink), "find"):
            return None  # Then it need not be connected to.
        with opened_sink(settings) as sink:
            return sink.find(facts.task_id) if isinstance(sink, Index) else None
    except AgentpipeError:
        return None  # The broker has said what it knows.

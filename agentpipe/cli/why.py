"""``agentpipe why``: where a task is, and why it is not done."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from agentpipe.cli import FAILED, OK
from agentpipe.cli.common import (
    add_common,
    opened_sink,
    opened_store,
    print_json,
    print_text,
    say_where,
    settings_of,
)
from agentpipe.errors import AgentpipeError

if TYPE_CHECKING:
    import argparse

    from agentpipe.brokers.store import Whereabouts
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("task", metavar="TASK", help="its id")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Look, change nothing, and say."""
    from agentpipe.why import Marks, verdict

    settings = settings_of(args)
    with opened_store(settings) as store:
        facts = store.where(args.task)
    marks = Marks(settings.outbox_high_water, settings.outbox_high_water_bytes)
    found = verdict(facts, time.time(), marks, _stream_position(facts, settings))
    if args.json:
        print_json(found.to_dict())
    else:
        say_where(settings)
        print_text(f"{args.task}: {found.sentence}")
        print_text(f"next: {found.next}")
    return FAILED if found.state == "unknown" else OK


def _stream_position(facts: Whereabouts, settings: Settings) -> int | None:
    """Where the stream has its Result; only the embedded sink can look that up."""
    if facts.place not in ("settled", "unknown"):
        return None
    try:
        with opened_sink(settings) as sink:
            find = getattr(sink, "find", None)
            return None if find is None else find(facts.task_id)
    except AgentpipeError:
        return None  # The broker has said what it knows.

"""``agentpipe pause``: have no worker take tasks of agents or whole collections."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli import OK
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

if TYPE_CHECKING:
    import argparse

    from agentpipe.brokers.base import Store
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("targets", metavar="TARGET", nargs="+", help="a collection or an agent")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Pause: what runs goes on, and sending goes on."""
    return change(args, paused=True)


def change(args: argparse.Namespace, *, paused: bool) -> int:
    """Pause or resume."""
    from agentpipe.operations.pause import pause

    settings = settings_of(args)
    say_where(settings)
    with opened_store(settings) as store:
        _make_known(args, settings, store)
        done = pause(store, args.targets, paused=paused)
    if args.json:
        left = list(done.still_paused)
        print_json({"paused": paused, "agents": list(done.agents), "paused_agents": left})
    else:
        print_text(f"{len(done.agents)} agents {'paused' if paused else 'resumed'}")
        if done.still_paused and not paused:
            names = ", ".join(done.still_paused)
            say(f"paused still, on their own or with their collection: {names}")
    return OK


def _make_known(args: argparse.Namespace, settings: Settings, store: Store) -> None:
    """Let a collection be paused before anything was sent to it."""
    from agentpipe.sending.dispatcher import Dispatcher

    depths = store.stats().queues
    known = {depth.queue for depth in depths} | {depth.collection for depth in depths}
    if args.collection_file or (settings.collection_file and set(args.targets) - known):
        Dispatcher(store).declare(collections_of(args, settings))

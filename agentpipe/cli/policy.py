"""``agentpipe policy``: show a trainer's policy, publish a version, pause its requests."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.help_text import EXIT_CODES
from agentpipe.cli.opening import collections_of, opened_store, settings_of, store_to_read
from agentpipe.cli.options import add_common, seconds
from agentpipe.cli.output import print_either, say_where
from agentpipe.core.policy import PolicyChange
from agentpipe.core.text import counted
from agentpipe.operations.policies import (
    change,
    find_policy,
    flights_of,
    pause_policy,
    policy_as_dict,
    policy_lines,
    publish,
)

if TYPE_CHECKING:
    import argparse

    from agentpipe.brokers.base import Store

ACTIONS = {
    "show": "show its version, servers and requests",
    "publish": "announce the version that its servers have, and their URLs",
    "pause": "hold requests to its servers; no run fails",
    "resume": "continue held requests",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    show, publishing, pause, resume = (
        actions.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        for name, text in ACTIONS.items()
    )
    pairs = ((show, _show), (publishing, _publish), (pause, _pause), (resume, _resume))
    for action, function in pairs:
        action.add_argument("name", metavar="NAME", help="the policy")
        add_common(action)
        action.set_defaults(action=function)
    publishing.add_argument(
        "--version", type=int, required=True, metavar="N", help="never lower than the last one"
    )
    publishing.add_argument(
        "--endpoint",
        action="append",
        metavar="URL",
        help="base URL of a server; may be repeated (default: the current ones)",
    )
    pause.add_argument(
        "--drain-s",
        type=seconds,
        default=0.0,
        metavar="SECONDS",
        help="most seconds to wait for active requests (default: 0)",
    )


def run(args: argparse.Namespace) -> int:
    """Run the action."""
    settings = settings_of(args)
    if not args.collection_file:
        require_tasks(args, settings)
    say_where(settings)
    reads = args.action is _show and not args.collection_file
    with store_to_read(settings) if reads else opened_store(settings) as store:
        if args.collection_file:
            _declare(args, store)
        args.action(args, store)
    return OK


def _declare(args: argparse.Namespace, store: Store) -> None:
    """Declare the file's collections: a version can then be published before any task or worker."""
    from agentpipe.sending.dispatcher import Dispatcher

    Dispatcher(store).declare(collections_of(args, settings_of(args)))


def _show(args: argparse.Namespace, store: Store, *said: str) -> None:
    state = find_policy(store, args.name)
    flights = flights_of(store.stats(), state)
    print_either(args, policy_as_dict(state, flights), *said, *policy_lines(state, flights))


def _publish(args: argparse.Namespace, store: Store) -> None:
    publish(store, args.name, args.version, args.endpoint)
    _show(args, store)


def _pause(args: argparse.Namespace, store: Store) -> None:
    left = pause_policy(store, args.name, args.drain_s)
    _show(args, store, f"{counted(left, 'request')} still under way")


def _resume(args: argparse.Namespace, store: Store) -> None:
    change(store, args.name, PolicyChange(paused=False))
    _show(args, store)

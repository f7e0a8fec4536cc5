"""``agentpipe drain``: stop workers once their runs have finished."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import OK, PARTLY
from agentpipe.cli.opening import opened_store, settings_of
from agentpipe.cli.options import add_common, refuse_timeout_alone, seconds
from agentpipe.cli.output import print_either, say, say_where
from agentpipe.core.text import counted
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence

    from agentpipe.brokers.base import Store


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("workers", metavar="WORKER", nargs="*", help="as `status` names them")
    parser.add_argument("--here", action="store_true", help="all workers of this machine, or pod")
    parser.add_argument("--all", action="store_true", help="all workers of the broker")
    parser.add_argument("--wait", action="store_true", help="return when they have ended")
    parser.add_argument(
        "--timeout", metavar="S", type=seconds, help="with --wait: stop waiting after S seconds"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Drain workers; they finish their runs even if this command is interrupted."""
    from agentpipe.operations.drain import drain, wait_until_gone

    _check(args)
    settings = settings_of(args)
    require_tasks(args, settings)
    say_where(settings)
    with opened_store(settings) as store:
        names = _names(args, store)
        unheard = drain(store, names)
        waits = args.wait and not unheard
        left = [it.name for it in wait_until_gone(store, names, args.timeout)] if waits else []
    record = {"workers": list(names), "unheard": list(unheard), "left": left}
    print_either(args, record, _text(names, ended=waits and not left))
    if unheard:
        say(
            f"no answer from {', '.join(unheard)}: they still take tasks; they are of an "
            "earlier version, or cannot reach the broker: send them SIGTERM"
        )
    if left:
        say(
            f"not ended within {args.timeout:g} s: {', '.join(left)}; they take nothing new, and "
            "end when their runs do"
        )
    return PARTLY if unheard or left else OK


def _check(args: argparse.Namespace) -> None:
    if sum(map(bool, (args.workers, args.here, args.all))) != 1:
        raise ConfigError("give names of workers, or --here, or --all")
    refuse_timeout_alone(args)


def _names(args: argparse.Namespace, store: Store) -> Sequence[str]:
    from agentpipe.operations.drain import workers_named, workers_to_drain

    if args.workers:
        return workers_named(store, args.workers)
    return workers_to_drain(store, socket.gethostname() if args.here else None)


def _text(names: Sequence[str], *, ended: bool) -> str:
    if not names:
        return "no worker to drain"
    return f"{counted(len(names), 'worker')} {'ended' if ended else 'draining'}"

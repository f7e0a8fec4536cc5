"""The options of ``send`` for groups of samples, which the broker counts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.options import refuse_below_one
from agentpipe.errors import ConfigError
from agentpipe.sending.groups import REPAIRS, GroupPlan

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Iterator

    from agentpipe.sending.admission import AdmittedTask
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sending.sent import Sent

MAX_MEMBERS = 10_000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the options."""
    group = parser.add_argument_group("groups of samples, which the broker counts")
    group.add_argument(
        "--group",
        metavar="N",
        type=int,
        dest="group_size",
        help="send N samples of each task, all or none, counted by the broker",
    )
    group.add_argument(
        "--spares", metavar="K", type=int, default=0, help="with --group: K samples more"
    )
    group.add_argument(
        "--need",
        metavar="M",
        type=int,
        help="with --group: cancel the rest once M are good (default: N)",
    )
    group.add_argument(
        "--repairs",
        metavar="R",
        type=int,
        default=REPAIRS,
        help=f"with --group: replace up to R samples without judgement (default: {REPAIRS})",
    )


def check(args: argparse.Namespace) -> None:
    """Refuse numbers that contradict each other.

    Raises:
        ConfigError: The message names them.
    """
    if args.group_size is None:
        _refuse_alone(args)
        return
    refuse_below_one("--group", args.group_size)
    if args.samples is not None:
        raise ConfigError("give --samples, or --group for samples that the broker counts")
    if args.group_size + args.spares > MAX_MEMBERS:
        raise ConfigError(f"--group and --spares may be at most {MAX_MEMBERS:,} together")
    plan_of(args)


def _refuse_alone(args: argparse.Namespace) -> None:
    given = (
        ("--spares", args.spares != 0),
        ("--need", args.need is not None),
        ("--repairs", args.repairs != REPAIRS),
    )
    for option, is_given in given:
        if is_given:
            raise ConfigError(f"{option} needs --group N")


def plan_of(args: argparse.Namespace) -> GroupPlan:
    """How each task becomes a group."""
    return GroupPlan.of(
        args.group_size,
        spares=args.spares,
        repairs=args.repairs,
        need=args.need,
        vary_seed=not args.same_seed,
    )


def batches(
    args: argparse.Namespace, dispatcher: Dispatcher, tasks: Iterable[AdmittedTask]
) -> Iterator[Sent]:
    """Send the tasks, as groups with ``--group``."""
    if args.group_size is None:
        return dispatcher.send_batches(args.collection, tasks, on_full=args.on_full)
    plan = plan_of(args)
    return dispatcher.send_group_batches(args.collection, tasks, plan, on_full=args.on_full)

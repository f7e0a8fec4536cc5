"""``agentpipe chaos``: test the user's own broker and sink under injected faults."""

from __future__ import annotations

import signal
import sys
from typing import TYPE_CHECKING

from agentpipe.cli.exit_codes import FAILED, OK
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common
from agentpipe.cli.output import print_json, print_text, say
from agentpipe.cli.signals import handled_by
from agentpipe.core.redaction import without_password
from agentpipe.core.text import counted
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from agentpipe.chaos.trial import Plan, TrialReport
    from agentpipe.settings import Settings

FAULTS = {
    "kills": "kill",
    "freezes": "freeze",
    "broker_cuts": "broker cut",
    "sink_cuts": "sink cut",
}
SHOWN_IDS = 5


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    numbers = (
        ("--tasks", "tasks", 300, "tasks to send"),
        ("--kills", "kills", 20, "how often to kill a worker with SIGKILL"),
        ("--freeze", "freezes", 3, "how often to stop a worker for twice its lease"),
        (
            "--broker-cut",
            "broker_cuts",
            3,
            "how often to cut the workers' connections to the broker",
        ),
        ("--sink-cut", "sink_cuts", 2, "how often to cut their connections to the sink"),
    )
    for option, name, default, text in numbers:
        parser.add_argument(
            option,
            dest=name,
            metavar="N",
            type=int,
            default=default,
            help=f"{text} (default: {default})",
        )
    parser.add_argument(
        "--clean", action="store_true", help="only remove what killed trials have left here"
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run a trial in a scratch space; its ledger decides the exit code."""
    from agentpipe.chaos.space import remove_left

    settings, plan = settings_of(args), _plan(args)
    removed = remove_left(settings, say)
    if args.clean:
        if args.json:
            print_json({"removed": removed})
        else:
            print_text(f"{counted(len(removed), 'scratch space')} removed", *removed)
        return OK
    for name in removed:
        say(f"{name}, left by a killed trial, is removed")
    # Clean up as on Ctrl-C.
    with handled_by(signal.default_int_handler, signal.SIGTERM, signal.SIGHUP):
        report = _tried(args, settings, plan)
    if args.json:
        print_json(_record(report))
    else:
        print_text(*_lines(report), head=0)
    return OK if report.ledger.balances else FAILED


def _plan(args: argparse.Namespace) -> Plan:
    from agentpipe.chaos.trial import Plan

    if args.tasks < 1:
        raise ConfigError(f"--tasks must be at least 1, got {args.tasks}")
    numbers = {name: getattr(args, name) for name in FAULTS}
    if negative := [number for number in numbers.values() if number < 0]:
        raise ConfigError(f"a number of faults must be at least 0, got {negative[0]}")
    return Plan(args.tasks, **numbers)


def _tried(args: argparse.Namespace, settings: Settings, plan: Plan) -> TrialReport:
    from agentpipe.chaos.space import new_space
    from agentpipe.chaos.trial import run_trial
    from agentpipe.cli.progress import progress_bar

    with new_space(settings) as space:
        say(
            f"{space.name}: scratch tasks on {without_password(space.settings.broker)}, results on "
            f"{without_password(space.settings.sink)}; what else is there stays untouched"
        )
        shown = sys.stderr.isatty() and not args.json
        with progress_bar("answered", shown=shown, redirect=False, total=plan.tasks) as advance:
            return run_trial(space, plan, advance)


def _record(report: TrialReport) -> dict[str, object]:
    ledger = report.ledger
    return {
        "ok": ledger.balances,
        "accepted": ledger.accepted,
        "answered_once": ledger.answered_once,
        "lost": len(ledger.lost),
        "twice": len(ledger.twice),
        "run_twice": ledger.run_twice,
        "longest_recovery_s": ledger.longest_recovery_s,
        "runs": ledger.runs,
        "outcomes": dict(ledger.outcomes),
        "repeated": report.repeated,
        "faults": dict(report.faults),
        "left_out": dict(report.left_out),
        "took_s": round(report.took_s, 1),
        "lost_ids": ledger.lost,
        "twice_ids": ledger.twice,
    }


def _lines(report: TrialReport) -> Iterator[str]:
    ledger, recovery_s = report.ledger, report.ledger.longest_recovery_s
    faults = [counted(number, FAULTS[kind]) for kind, number in report.faults.items()]
    yield f"{', '.join(faults) or 'no faults'} in {report.took_s:.0f} s"
    for kind, why in report.left_out.items():
        yield f"left out: {FAULTS[kind]}s: {why}"
    rows = {
        "accepted": str(ledger.accepted),
        "answered once": str(ledger.answered_once),
        "lost": _with_ids(ledger.lost),
        "twice in the stream": _with_ids(ledger.twice),
        "run twice": str(ledger.run_twice),
        "longest recovery": "-" if recovery_s is None else f"{recovery_s:.1f} s",
    }
    for name, value in rows.items():
        yield f"{name:<20} {value}"
    bad = {outcome: number for outcome, number in ledger.outcomes.items() if outcome != "ok"}
    for outcome, number in bad.items():
        yield f"{f'ended as {outcome}':<20} {number}"
    yield "the ledger balances" if ledger.balances else "THE LEDGER DOES NOT BALANCE"


def _with_ids(ids: tuple[str, ...]) -> str:
    more = ", ..." if len(ids) > SHOWN_IDS else ""
    return f"{len(ids)}  ({', '.join(ids[:SHOWN_IDS])}{more})" if ids else "0"

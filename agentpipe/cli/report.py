"""``agentpipe report``: what the stream adds up to."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli import OK
from agentpipe.cli.common import add_common, print_json, print_text, settings_of, wants_color
from agentpipe.core.redaction import without_password
from agentpipe.operations.report import Report, summarise
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    import argparse

    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument("--collection", metavar="NAME", help="only this collection's results")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Read the stream from its beginning to its present end, and print the totals."""
    settings = settings_of(args)
    with Stream.open(settings, start="beginning", timeout_s=0) as stream:
        report = summarise(
            result for result in stream if args.collection in (None, result.collection)
        )
    if args.json:
        print_json(report.to_dict())
    else:
        _draw(report, settings)
    return OK


def _draw(report: Report, settings: Settings) -> None:
    from rich.box import SIMPLE_HEAD
    from rich.console import Console
    from rich.table import Table

    table = Table("", "", box=SIMPLE_HEAD, show_header=False)
    for outcome, number in report.outcomes.items():
        table.add_row(outcome, f"{number:,} of {report.results:,}")
    if report.pass_rate is not None:
        table.add_row("pass rate", f"{report.pass_rate:.1%} of {report.rewarded:,} evaluated")
    table.add_row("throughput", f"{report.per_s:,.1f} results/s")
    table.add_row("time", f"{report.duration_s:.1f} s")
    Console(no_color=not wants_color(), highlight=False).print(table)
    print_text(f"The stream lies in {without_password(settings.sink)}")

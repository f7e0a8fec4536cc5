"""``agentpipe report``: totals of the stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.common import add_common, print_json, print_text, settings_of
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.home import require_results
from agentpipe.core.redaction import without_password
from agentpipe.core.text import one_line
from agentpipe.operations.report import Report, summarize
from agentpipe.sinks.stream import Stream

if TYPE_CHECKING:
    import argparse


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("--collection", metavar="NAME", help="only results of this collection")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Read the stream from its beginning to its present end."""
    settings = settings_of(args)
    require_results(args, settings)
    with Stream.open(settings, start="beginning", timeout_s=0) as stream:
        report = summarize(
            result for result in stream if args.collection in (None, result.collection)
        )
    if args.json:
        print_json(report.to_dict())
    else:
        _draw(report)
        print_text(f"Results: {without_password(settings.sink)}")
    return OK


def _draw(report: Report) -> None:
    rows = [
        (one_line(name, 40), f"{number:,} of {report.results:,}")
        for name, number in report.outcomes.items()
    ]
    if report.pass_rate is not None:
        rows.append(("pass rate", f"{report.pass_rate:.1%} of {report.rewarded:,} evaluated"))
    rows.append(("throughput", f"{report.per_s:,.1f} results/s"))
    rows.append(("time", f"{report.duration_s:.1f} s"))
    width = max(len(name) for name, _ in rows)
    print_text("", *(f"  {name:<{width}}   {value}" for name, value in rows), "")

"""``agentpipe report``: summarize the stream or a run, as a whole and by a field."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.cli.columns import divided, pairs
from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.known_collections import refuse_unknown_collection
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common, add_run
from agentpipe.cli.output import print_json, print_text, say, say_skipped
from agentpipe.cli.run_notes import no_results_of, say_drift
from agentpipe.core.distribution import needs_extra
from agentpipe.core.redaction import without_password
from agentpipe.core.text import HOUR_S, MINUTE_S, amount, counted, one_line
from agentpipe.core.usage import USD
from agentpipe.operations.judging.reading import ResultsOfRuns
from agentpipe.operations.judging.report import FIELDS, METADATA, key_of, summarize
from agentpipe.operations.judging.samples import without_rescored

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.operations.judging.report import Report
    from agentpipe.operations.judging.rewards import PassK
    from agentpipe.operations.judging.spares import Spares
    from agentpipe.web.report_file import ReportSamples

MAX_K = 10_000
NAMED = 5
COLUMNS = ("results", "ok", "reward", "95 % interval", "usd", "p50 s", "p95 s")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_run(parser, "only results of this run")
    parser.add_argument("--collection", metavar="NAME", help="only results of this collection")
    parser.add_argument(
        "--by",
        metavar="FIELD",
        help=f"also for each value of {', '.join(FIELDS)} or {METADATA}KEY",
    )
    parser.add_argument(
        "--pass-k",
        metavar="K,...",
        type=_numbers,
        default=(),
        help="chances that one of K samples of a task passes, and that all do",
    )
    parser.add_argument(
        "--html", metavar="FILE", type=Path, help="also write it as one file for a browser"
    )
    add_common(parser)


def _numbers(text: str) -> tuple[int, ...]:
    try:
        numbers = tuple(map(int, text.split(",")))
    except ValueError:
        numbers = (0,)
    if not all(1 <= number <= MAX_K for number in numbers):
        wanted = f"expected numbers from 1 to {MAX_K:,}, as in 1,4,8"
        raise argparse.ArgumentTypeError(f"{wanted}, got {text!r}")
    return tuple(sorted(set(numbers)))


def run(args: argparse.Namespace) -> int:
    """Read the stream from its beginning to its current end, or a run from the archive."""
    settings = settings_of(args)
    refuse_unknown_collection(args, settings, args.collection)
    key = key_of(args.by) if args.by else None
    require_results(args, settings)
    found, rescored = ResultsOfRuns(settings, _runs(args)), list[str]()
    results = found if args.run_name else without_rescored(found, rescored)
    wanted = (it for it in results if args.collection in (None, it.collection))
    rows = _rows() if args.html else None
    noted = rows.noted(wanted) if rows else wanted
    whole, by = summarize(noted, key, args.pass_k)
    if args.run_name and not whole.results:
        raise no_results_of(settings, args.run_name)
    if rows:
        title = args.run_name or args.collection or "All results"
        rows.write(args.html, title, whole, by)
        say(f"written: {args.html}")
    if args.json:
        parts = [{"key": name, **part.to_dict()} for name, part in by.items()]
        print_json({**whole.to_dict(), "by": parts if args.by else None})
    else:
        _draw(whole)
        if by:
            cells = {name: _cells(part) for name, part in by.items()}
            print_text(*divided(args.by, COLUMNS, cells), "")
        print_text(f"Results: {without_password(settings.sink)}")
    _say_what_to_know(args, whole, rescored)
    say_skipped(found)
    return OK


def _rows() -> ReportSamples:
    with needs_extra("a report for a browser needs the extra web", "web", "jinja2", "starlette"):
        from agentpipe.web.report_file import ReportSamples

    return ReportSamples()


def _runs(args: argparse.Namespace) -> tuple[str, ...]:
    return (args.run_name,) if args.run_name else ()


def _say_what_to_know(args: argparse.Namespace, whole: Report, rescored: Sequence[str]) -> None:
    if args.run_name:
        say_drift(args.run_name, whole.config_hashes)
    if rescored:
        runs = ", ".join(sorted(set(rescored))[:NAMED])
        say(f"not counted here: {counted(len(rescored), 'rescored result')}; see --run {runs}")


def _draw(report: Report) -> None:
    rows = [
        *(
            (one_line(name, 40), f"{n:,} of {report.results:,}")
            for name, n in report.outcomes.items()
        ),
        *_tried_again(report),
        *_judged(report),
        *_used(report),
        *_cut(report.spares),
        ("throughput", _throughput(report.per_s)),
        ("time", f"{report.duration_s:.1f} s"),
    ]
    print_text("", *pairs(rows), "")


def _tried_again(report: Report) -> Iterator[tuple[str, str]]:
    counts = (
        ("retried", report.retried),
        ("replayed", report.replayed),
        ("judged again", report.rescored),
    )
    for name, number in counts:
        if number:
            yield name, f"{number:,} of {report.results:,}"


def _judged(report: Report) -> Iterator[tuple[str, str]]:
    mean = report.reward
    if mean is None:
        return
    label = "pass rate" if report.passes_or_fails else "mean reward"
    yield label, f"{_share(report, mean.mean)} of {mean.rewarded:,} evaluated"
    if mean.low is not None and mean.high is not None:
        span = f"{_share(report, mean.low)} to {_share(report, mean.high)}"
        yield "95 % interval", f"{span}, {counted(mean.groups, 'task')}"
    if report.bounds and mean.rewarded < report.results:
        low, high = (_share(report, bound) for bound in report.bounds)
        missing = report.results - mean.rewarded
        yield "not evaluated", f"{missing:,}: {low} to {high} if all of them were 0, or 1"
    for each in report.pass_k:
        yield f"pass@{each.k}, pass^{each.k}", _chances(each)


def _used(report: Report) -> Iterator[tuple[str, str]]:
    for name, number in report.usage.items():
        if name == USD:
            yield USD, f"{amount(number)} of {counted(report.priced, 'result')} with a price"
        else:
            yield one_line(name, 40), f"{number:,.15g}"
    if report.run_s is not None:
        half, most = report.run_s
        yield "run time", f"half within {half:.1f} s, 95 % within {most:.1f} s"


def _cut(spares: Spares | None) -> Iterator[tuple[str, str]]:
    if spares is not None:
        yield "spares", spares.sentence


def _throughput(per_s: float) -> str:
    """In the unit that shows digits: agents can take an hour."""
    units = {"s": 1, "min": MINUTE_S, "h": HOUR_S}
    shown = [name for name, size in units.items() if per_s * size >= 1 or not per_s]
    unit = shown[0] if shown else "h"
    return f"{per_s * units[unit]:,.1f} results/{unit}"


def _share(report: Report, value: float) -> str:
    return f"{value:.1%}" if report.passes_or_fails else f"{value:.3f}"


def _chances(each: PassK) -> str:
    if each.any_passes is None or each.all_pass is None:
        return f"no task has {counted(each.k, 'evaluated sample')}"
    left_out = f"; {each.left_out:,} have fewer samples" if each.left_out else ""
    tasks = counted(each.groups, "task")
    return f"{each.any_passes:.1%}, {each.all_pass:.1%} of {tasks}{left_out}"


def _cells(part: Report) -> list[str]:
    mean = part.reward
    times = [f"{value:.1f}" for value in part.run_s] if part.run_s else ["-", "-"]
    span = (
        f"{mean.low:.3f} to {mean.high:.3f}" if mean and None not in (mean.low, mean.high) else "-"
    )
    return [
        f"{part.results:,}",
        f"{part.outcomes.get('ok', 0):,}",
        f"{mean.mean:.3f} of {mean.rewarded:,}" if mean else "-",
        span,
        amount(part.usage["usd"]) if part.priced else "-",
        *times,
    ]

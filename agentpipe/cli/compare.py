"""``agentpipe compare``: compare two runs, task by task."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.cli.columns import divided, pairs
from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.exit_codes import OK, PARTLY
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common, run_name
from agentpipe.cli.output import print_json, print_text, say, say_skipped
from agentpipe.cli.run_notes import no_results_of, say_drift
from agentpipe.core.text import amount, counted, one_line
from agentpipe.operations.judging.comparing import compare, compare_by
from agentpipe.operations.judging.permutation import DRAWS
from agentpipe.operations.judging.reading import ResultsOfRuns
from agentpipe.operations.judging.report import FIELDS, METADATA, key_of
from agentpipe.operations.judging.samples import Sample, samples_of

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from agentpipe.core.result import Result
    from agentpipe.operations.judging.comparing import Comparison, Delta, Unpaired
    from agentpipe.operations.judging.report import Report

COLUMNS = ("tasks", "delta", "95 % interval", "p", "won", "tied", "lost")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("first", metavar="A", type=run_name, help="the run to compare with")
    parser.add_argument("second", metavar="B", type=run_name, help="the run that may be better")
    parser.add_argument(
        "--by",
        metavar="FIELD",
        help=f"also for each value of {', '.join(FIELDS)} or {METADATA}KEY",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Compare the runs; return 5 if the second is worse beyond chance."""
    settings = settings_of(args)
    key = _key_of(args.by) if args.by else None
    require_results(args, settings)
    found = ResultsOfRuns(settings, (args.first, args.second))
    samples = samples_of(found, key, questions=True)
    first, second = ([it for it in samples if it.run == name] for name in _names(args))
    for name, of_run in zip(_names(args), (first, second), strict=True):
        if not of_run:
            raise no_results_of(settings, name)
    whole = compare(first, second)
    by = compare_by(first, second) if args.by else {}
    worse = whole.difference is not None and whole.difference.is_worse
    if args.json:
        print_json(_as_json(args, whole, by, worse=worse))
    else:
        _draw(args, whole)
        if by:
            cells = {name: _cells(part) for name, part in by.items()}
            print_text(*divided(args.by, COLUMNS, cells), "")
        print_text(_verdict(args, whole.difference))
    _say_asked_otherwise(args, whole.asked_otherwise)
    say_drift(args.first, whole.a.config_hashes)
    say_drift(args.second, whole.b.config_hashes)
    say_skipped(found)
    return PARTLY if worse else OK


def _key_of(field: str) -> Callable[[Result], str]:
    """The key as in reports, except ``group``: task names are the same in both runs."""
    return (lambda result: Sample.of(result).task) if field == "group" else key_of(field)


def _names(args: argparse.Namespace) -> tuple[str, str]:
    return args.first, args.second


def _as_json(
    args: argparse.Namespace, whole: Comparison, by: Mapping[str, Comparison], *, worse: bool
) -> dict[str, Any]:
    parts = [{"key": name, **part.to_dict()} for name, part in by.items()]
    runs = {"run_a": args.first, "run_b": args.second}
    return {**runs, "worse": worse, **whole.to_dict(), "by": parts if args.by else None}


def _verdict(args: argparse.Namespace, found: Delta | None) -> str:
    if found is None:
        return f"{args.second} and {args.first} have no judged task in common: nothing is compared"
    if found.is_worse:
        return f"{args.second} is worse than {args.first}, beyond chance"
    if found.delta > 0 and found.is_beyond_chance:
        return f"{args.second} is better than {args.first}, beyond chance"
    return f"{args.second} does not differ from {args.first} beyond chance"


def _draw(args: argparse.Namespace, whole: Comparison) -> None:
    rows = [("tasks", f"{whole.tasks:,} in both, {whole.judged:,} of them judged in both")]
    if whole.difference is not None:
        rows += _compared(args, whole.difference)
    rows += _missing(args, whole)
    for name, alone in zip(_names(args), (whole.only_a, whole.only_b), strict=True):
        rows += _alone(name, alone)
    for name, report in zip(_names(args), (whole.a, whole.b), strict=True):
        rows.append((f"{name} took", _cost(report)))
    print_text("", *pairs(rows), "")


def _compared(args: argparse.Namespace, found: Delta) -> Iterator[tuple[str, str]]:
    yield args.first, f"{found.mean_a:.3f}"
    yield args.second, f"{found.mean_b:.3f}"
    yield "delta", f"{found.delta:+.3f}"
    if found.low is not None and found.high is not None:
        yield "95 % interval", f"{found.low:+.3f} to {found.high:+.3f}"
    how = "all flips" if found.exact else f"{DRAWS:,} flips drawn"
    yield "sign-flip test", f"p = {found.p:.4g}, {how}"
    if found.mcnemar is not None:
        only = f"{found.mcnemar.only_a:,} pass in {args.first} only"
        other = f"{found.mcnemar.only_b:,} in {args.second} only"
        yield "McNemar's test", f"p = {found.mcnemar.p:.4g}: {only}, {other}"
    yield "won, tied, lost", f"{found.wins:,}, {found.ties:,}, {found.losses:,}"
    if found.detectable is not None:
        yield "detectable", f"{found.detectable:.3f}, with a power of 80 %"


def _missing(args: argparse.Namespace, whole: Comparison) -> Iterator[tuple[str, str]]:
    if whole.bounds is None or not any(whole.missing):
        return
    counts = zip(whole.missing, _names(args), strict=True)
    numbers = ", ".join(f"{number:,} of {name}" for number, name in counts)
    low, high = whole.bounds
    yield "not evaluated", f"{numbers}: delta {low:+.3f} to {high:+.3f}, whatever they are"


def _alone(name: str, alone: Unpaired) -> Iterator[tuple[str, str]]:
    if alone.count:
        shown = one_line(", ".join(alone.first), 200)
        more = ", ..." if alone.count > len(alone.first) else ""
        yield f"only in {name}", f"{counted(alone.count, 'task')}: {shown}{more}"


def _say_asked_otherwise(args: argparse.Namespace, found: Unpaired) -> None:
    if found.count:
        shown = one_line(", ".join(found.first), 200)
        more = ", ..." if found.count > len(found.first) else ""
        say(
            f"warning: {counted(found.count, 'task')} of {args.second} ask another question than "
            f"in {args.first}, and are compared all the same: {shown}{more}. The file was edited, "
            "or its tasks have no ids and were reordered: give each an id"
        )


def _cost(report: Report) -> str:
    parts = [f"{counted(report.results, 'result')}"]
    if report.priced:
        parts.append(f"{amount(report.usage['usd'])} usd")
    if report.run_s is not None:
        half, most = report.run_s
        parts.append(f"runs: half within {half:.1f} s, 95 % within {most:.1f} s")
    if report.retried:
        parts.append(f"{report.retried:,} retried")
    return ", ".join(parts)


def _cells(part: Comparison) -> Sequence[str]:
    found = part.difference
    if found is None:
        return (f"{part.judged:,}", *"------")
    bounded = found.low is not None and found.high is not None
    span = f"{found.low:+.3f} to {found.high:+.3f}" if bounded else "-"
    counts = (f"{number:,}" for number in (found.wins, found.ties, found.losses))
    return (f"{part.judged:,}", f"{found.delta:+.3f}", span, f"{found.p:.3g}", *counts)

"""``agentpipe runs``: list runs, show the provenance of one, or forget one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.cli.columns import listing
from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import opened_store, settings_of, store_to_read
from agentpipe.cli.options import add_common, run_name
from agentpipe.cli.output import confirm, print_either, print_json, print_text, say
from agentpipe.cli.run_notes import say_drift
from agentpipe.connections.sqlite_address import is_absent
from agentpipe.core.outside import json_text
from agentpipe.core.text import amount, duration, one_line
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.operations.runs import RunSummary
    from agentpipe.settings import Settings

ACTIONS = ("show", "drop")
COLUMNS = (
    "run",
    "collection",
    "tasks",
    "done",
    "ok",
    "reward",
    "95 % interval",
    "tokens",
    "usd",
    "begun",
    "took",
)


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "action", metavar="ACTION", nargs="?", choices=ACTIONS, help="show or drop one run"
    )
    parser.add_argument("name", metavar="NAME", nargs="?", type=run_name, help="which run")
    parser.add_argument("--yes", action="store_true", help="drop: skip the confirmation")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Run the action; without one, list all runs."""
    if args.action is not None and args.name is None:
        raise ConfigError(f"name the run: runs {args.action} NAME")
    settings = settings_of(args)
    require_tasks(args, settings)
    return {None: _list, "show": _show, "drop": _drop}[args.action](args)


def _list(args: argparse.Namespace) -> int:
    from agentpipe.operations.runs import summaries

    settings = settings_of(args)
    with store_to_read(settings) as store:
        found = summaries(store, settings)
    if args.json:
        print_json({"runs": [each.to_dict() for each in found]})
        return OK
    if not found:
        say("no run on this broker: `agentpipe send --run NAME` begins one")
        return OK
    print_text(*listing([COLUMNS, *map(_cells, found)]))
    if any(each.archived is None for each in found) and not is_absent(settings.sink):
        say("the sink is not an archive: results are as the broker has counted them")
    for each in found:
        _say_flaws(each)
    return OK


def _say_flaws(found: RunSummary) -> None:
    if found.collection is None:
        say(f"the record of run {found.name} cannot be read: runs show {found.name} has its counts")
    if found.trimmed:
        say(
            f"run {found.name}: {found.trimmed:,} of its {found.done:,} results are not in the "
            "archive: trimmed, or not delivered yet; their counts are the broker's"
        )
    say_drift(found.name, found.configs)


def show_one(args: argparse.Namespace, settings: Settings) -> int:
    """Print the line of the run ``args.run_name``."""
    from agentpipe.operations.runs import summary

    with store_to_read(settings) as store:
        found = summary(store, settings, args.run_name)
    if args.json:
        print_json(found.to_dict())
    else:
        print_text(*listing([COLUMNS, _cells(found)]))
    _say_flaws(found)
    return OK


def _cells(each: RunSummary) -> tuple[str, ...]:
    unsure = "" if each.tasks_exact else "at least "
    interval = (
        None if each.low is None or each.high is None else f"{each.low:.3f} to {each.high:.3f}"
    )
    return (
        each.name,
        one_line(each.collection or "-", 40),
        f"{unsure}{each.tasks:,}",
        _or_dash(each.done),
        "-" if each.outcomes is None else f"{each.outcomes.get('ok', 0):,}",
        "-" if each.pass_rate is None else f"{each.pass_rate:.3f} of {each.rewarded:,}",
        interval or "-",
        _or_dash(each.tokens),
        "-" if each.usd is None else amount(each.usd),
        (each.begun_at or "-")[:19],
        "-" if each.took_s is None else duration(each.took_s),
    )


def _or_dash(number: int | None) -> str:
    return "-" if number is None else f"{number:,}"


def _show(args: argparse.Namespace) -> int:
    from agentpipe.operations.loops import loop_lines, loops_of_run
    from agentpipe.operations.runs import kept_run, record_in

    with store_to_read(settings_of(args)) as store:
        kept = kept_run(store, args.name)
        loops = loops_of_run(store, args.name)
    record = record_in(kept)
    counts = {"tasks": kept.tasks, "tasks_exact": kept.exact, "configs": kept.known_configs}
    lines = [*_lines({**record, **counts}), *(line for it in loops for line in loop_lines(it))]
    print_either(args, {**record, **counts, "loops": [it.to_dict() for it in loops]}, *lines)
    say_drift(kept.name, kept.known_configs)
    return OK


def _lines(record: dict[str, Any]) -> list[str]:
    width = max(map(len, record))
    return [
        f"{name:<{width}}  {one_line(json_text(value), 2_000)}" for name, value in record.items()
    ]


def _drop(args: argparse.Namespace) -> int:
    from agentpipe.brokers.capabilities import KeepsRuns, require
    from agentpipe.operations.runs import kept_run

    with opened_store(settings_of(args)) as store:
        kept_run(store, args.name)
        record = f"the record of run {args.name}"
        confirm(args, f"Forget {record}?", f"this forgets {record}")
        dropped = require(store, KeepsRuns, "keep runs").drop_run(args.name)
    print_either(args, {"dropped": dropped}, f"run {args.name} is forgotten")
    say("its tasks and its results stay: cancel --run ends those, archive trim --run drops these")
    return OK

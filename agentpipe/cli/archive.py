"""``agentpipe archive``: trim or vacuum an archive, or show its size."""

from __future__ import annotations

from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.help_text import EXIT_CODES
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common, add_run, age_or_time
from agentpipe.cli.output import confirm, print_either, say
from agentpipe.connections.sqlite_address import parse_url
from agentpipe.core.text import counted
from agentpipe.errors import ConfigError
from agentpipe.sinks import is_searchable, open_sink
from agentpipe.sinks.base import Query, Trimmable

if TYPE_CHECKING:
    import argparse

    from agentpipe.settings import Settings

ACTIONS = {
    "trim": "remove results of a run, or that finished before a time",
    "vacuum": "give the space of removed results back to the disk",
    "info": "show what it holds, and its size",
}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the actions and their arguments."""
    actions = parser.add_subparsers(title="actions", metavar="ACTION", required=True)
    trim, vacuum, info = (
        actions.add_parser(name, help=text, description=text, epilog=EXIT_CODES)
        for name, text in ACTIONS.items()
    )
    trim.add_argument(
        "--before", metavar="AGE|TIME", help="those that finished earlier: 30d, 12h, or ISO 8601"
    )
    add_run(trim, "those of this run")
    trim.add_argument(
        "--unread", action="store_true", help="also those that a group has not read yet"
    )
    for action in (trim, vacuum):
        action.add_argument("--yes", action="store_true", help="skip the confirmation")
    for action, function in ((trim, _trim), (vacuum, _vacuum), (info, _info)):
        add_common(action)
        action.set_defaults(action=function)


def run(args: argparse.Namespace) -> int:
    """Run the action on the embedded sink."""
    settings = settings_of(args)
    require_results(args, settings, now=True)
    _require_file(settings)
    with closing(open_sink(settings)) as sink:
        args.action(args, cast("Trimmable", sink))
    return OK


def _require_file(settings: Settings) -> None:
    if not is_searchable(settings):
        raise ConfigError(
            "this sink is not an archive: name the file of one with --sink sqlite:///results.db"
        )
    path = parse_url(settings.sink).path
    if not path.is_file():
        raise ConfigError(f"there is no file {path}")


def _trim(args: argparse.Namespace, archive: Trimmable) -> None:
    before = age_or_time("--before", args.before)
    if before is None and args.run_name is None:
        raise ConfigError("say what to remove: --before TIME, --run NAME, or both")
    found = archive.matching(Query(run=args.run_name, finished_before=before))
    stays = [] if args.unread else archive.unread(found)
    if args.run_name and not found:
        say(f"there is no such result of the run {args.run_name!r} here")
    doomed = sorted(set(found).difference(stays)) if stays else found
    if doomed:
        results = counted(len(doomed), "result")
        confirm(args, f"Remove {results}?", f"this removes {results}")
    removed, came = archive.remove(doomed, unread=args.unread)
    if kept := len(stays) + came:
        say(f"kept {counted(kept, 'result')} that a group has not read: see --unread")
    record = {"removed": removed, "kept": kept}
    print_either(args, record, f"{counted(removed, 'result')} removed")


def _vacuum(args: argparse.Namespace, archive: Trimmable) -> None:
    before = archive.size()
    anew = f"{before.size_bytes:,} bytes anew, and workers wait with their results"
    confirm(args, f"Write {anew}?", f"this writes {anew}")
    archive.vacuum()
    after = archive.size()
    record = {"before_bytes": before.size_bytes, "after_bytes": after.size_bytes}
    print_either(args, record, f"{before.size_bytes:,} bytes before, {after.size_bytes:,} now")


def _info(args: argparse.Namespace, archive: Trimmable) -> None:
    from agentpipe.archive import Archive

    with Archive.open(settings_of(args)) as opened:
        skipped = opened.skipped()
    size = archive.size()
    results = max(0, size.results - skipped)
    groups = [
        f"group {name}: {counted(number, 'result')} unread" for name, number in size.unread.items()
    ]
    print_either(
        args,
        {**asdict(size), "results": results, "skipped": skipped},
        f"{counted(results, 'result')}, {size.size_bytes:,} bytes ({size.free_bytes:,} free)",
        f"{counted(size.unindexed, 'record')} to index",
        *(
            [f"{counted(skipped, 'record')} that are not results: readers skip them"]
            * bool(skipped)
        ),
        *groups,
    )

"""``agentpipe export``: write results to a file that other tools read."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, cast

from agentpipe.archive import Archive
from agentpipe.archive.export.formats import FORMATS, Options
from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.guard import unguarded
from agentpipe.cli.known_collections import refuse_unknown_collection
from agentpipe.cli.known_runs import refuse_unknown_run
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common, add_run, finite
from agentpipe.cli.otlp import OTLP, add_content, trace_sender
from agentpipe.cli.output import print_either, say
from agentpipe.connections.new_file import new_file, refuse_existing
from agentpipe.connections.sqlite_address import parse_url
from agentpipe.core.result import OUTCOMES
from agentpipe.core.text import counted, printable, printable_json
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable
    from typing import BinaryIO, TextIO

    from agentpipe.archive.export.formats import Find, Format, Written
    from agentpipe.settings import Settings

STDOUT = "-"
_NAMES = {"trace": "--no-trace", "raw": "--raw", "min_reward": "--min-reward"}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "path",
        metavar="PATH",
        help="the file to write, or - for stdout; for otlp, the URL of a collector",
    )
    parser.add_argument(
        "--to", required=True, choices=(*FORMATS, OTLP), dest="format", help="the format"
    )
    add_run(parser, "only results of this run")
    parser.add_argument("--collection", metavar="NAME", help="only results of this collection")
    parser.add_argument("--outcome", choices=OUTCOMES, help="only results with this outcome")
    parser.add_argument("--no-trace", action="store_true", help="leave the traces out")
    parser.add_argument(
        "--raw", action="store_true", help="csv: do not escape cells that begin like formulas"
    )
    parser.add_argument(
        "--min-reward", metavar="X", type=finite, help="sft: only results with at least this reward"
    )
    parser.add_argument("--force", action="store_true", help="replace the file if it exists")
    add_content(parser)
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Write the file, and print how many results it has."""
    settings = settings_of(args)
    if args.format == OTLP:
        return _send(args, settings)
    if args.content:
        raise ConfigError(f"--content has no effect on {args.format}: it is for {OTLP}")
    form, options = FORMATS[args.format], _options(args)
    _refuse_without_effect(args.format, options)
    _refuse_path(args, form)
    require_results(args, settings, now=True)
    refuse_unknown_collection(args, settings, args.collection)
    refuse_unknown_run(settings, args.run_name)
    with Archive.open(settings) as archive:
        find = _find(args, archive)
        written = _write(args, settings, lambda file: form.write(find, file, options))
    _say(args, written)
    return OK


def _send(args: argparse.Namespace, settings: Settings) -> int:
    """Send traces to a collector instead of a file."""
    for name in (*_NAMES.values(), "--force"):
        if getattr(args, name[2:].replace("-", "_")):
            raise ConfigError(f"{name} has no effect on {OTLP}")
    require_results(args, settings, now=True)
    refuse_unknown_collection(args, settings, args.collection)
    refuse_unknown_run(settings, args.run_name)
    sender = trace_sender(args.path, content=args.content)
    with Archive.open(settings) as archive:
        found = archive.results(run=args.run_name, collection=args.collection, outcome=args.outcome)
        sent = sender.send(found)
    if sender.rejected:
        say(f"the collector rejected {counted(sender.rejected, 'span')}")
    record = {"path": sender.shown, "format": OTLP, "results": sent, "rejected": sender.rejected}
    print_either(args, record, f"{counted(sent, 'result')}: {sender.shown}")
    return OK


def _options(args: argparse.Namespace) -> Options:
    return Options(
        trace=not args.no_trace, raw=args.raw, min_reward=args.min_reward, run=args.run_name
    )


def _refuse_without_effect(name: str, options: Options) -> None:
    default = Options()
    for each, option in _NAMES.items():
        changed = getattr(options, each) != getattr(default, each)
        if changed and each not in FORMATS[name].options:
            takers = ", ".join(it for it, form in FORMATS.items() if each in form.options)
            raise ConfigError(f"{option} has no effect on {name}: it is for {takers}")


def _refuse_path(args: argparse.Namespace, form: Format) -> None:
    if args.path != STDOUT:
        refuse_existing(Path(args.path), force=args.force)
    elif not form.streams:
        raise ConfigError(f"{args.format} cannot go to stdout: name a file")


def _find(args: argparse.Namespace, archive: Archive) -> Find:
    outcome = args.outcome or FORMATS[args.format].outcome
    return lambda: archive.results(run=args.run_name, collection=args.collection, outcome=outcome)


def _write(
    args: argparse.Namespace, settings: Settings, write: Callable[[BinaryIO], Written]
) -> Written:
    if args.path == STDOUT:
        return write(_stdout(is_json=args.format != "csv"))
    with new_file(Path(args.path), force=args.force, like=_source(settings)) as file:
        return write(file)


def _stdout(*, is_json: bool) -> BinaryIO:
    stream = unguarded(sys.stdout)
    return cast("BinaryIO", _Terminal(stream, is_json)) if stream.isatty() else stream.buffer


class _Terminal:
    """Escapes characters that control a terminal; each write is one line."""

    def __init__(self, stream: TextIO, is_json: bool) -> None:  # noqa: FBT001 - used only here
        self._stream, self._is_json = stream, is_json

    def write(self, line: bytes) -> int:
        if self._is_json:
            shown = printable_json(line.removesuffix(b"\n")).decode()
        else:
            shown = printable(line.decode().removesuffix("\r\n"), keep="")
        return self._stream.write(f"{shown}\n")


def _source(settings: Settings) -> Path | None:
    """The file of the results; an export gets its permissions."""
    is_file = settings.sink.partition(":")[0] == "sqlite"
    return parse_url(settings.sink).path if is_file else None


def _say(args: argparse.Namespace, written: Written) -> None:
    results, left_out = written
    if not results:
        say("no result fits: see --run, --collection and --outcome")
    if left_out:
        say(f"{counted(left_out, 'result')} left out: {FORMATS[args.format].left_out}")
    if args.path == STDOUT:
        say(counted(results, "result"))
        return
    record = {"path": args.path, "format": args.format, "results": results, "left_out": left_out}
    print_either(args, record, f"{counted(results, 'result')}: {args.path}")

"""``agentpipe init``: begin a project, of one's own or with MCP-Universe's files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.cli import OK
from agentpipe.cli.common import encodable, print_json, print_text, say
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.operations.project.scaffold import Made


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        default=".",
        help="a new or an empty one (default: .)",
    )
    parser.add_argument(
        "--from-mcp-universe",
        metavar="PATH",
        help="copy a folder, collection, agent or benchmark YAML, or task JSON with what it needs",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def run(args: argparse.Namespace) -> int:
    """Make the folder, and say what to do in it."""
    from agentpipe.operations.project.scaffold import make_from, make_sample

    folder = Path(args.folder)
    if args.from_mcp_universe == "":  # As of a shell's variable that is not set.
        raise ConfigError("--from-mcp-universe: expected a path, got an empty one")
    if args.from_mcp_universe:
        made = make_from(Path(args.from_mcp_universe), folder, os.environ)
    else:
        made = make_sample(folder)
    if args.json:
        print_json(_as_dict(made))
    else:
        _print(made)
    return OK


def _as_dict(made: Made) -> dict[str, object]:
    runs = [
        {
            "file": encodable(each.file),
            "kind": each.kind,
            "runs": each.runs,
            "reasons": list(map(encodable, each.reasons)),
        }
        for each in made.runs
    ]
    return {
        "folder": encodable(str(made.folder)),
        "files": list(map(encodable, made.files)),
        "runs": runs,
        "notes": list(map(encodable, made.notes)),
        "next": list(map(encodable, made.commands)),
    }


def _print(made: Made) -> None:
    say(f"{len(made.files)} files in {made.folder}")
    for each in made.runs:
        reasons = f": {'; '.join(each.reasons)}" if each.reasons else ""
        say(f"  {each.runs:<12} {each.file} ({each.kind}){reasons}")
    for note in made.notes:
        say(note)
    say("Try next:")
    for command in made.commands:
        print_text(command)

"""``agentpipe init``: create a project, from scratch or from MCP-Universe's files."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.cli.check import add_run_code, file_as_dict
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.options import add_json
from agentpipe.cli.output import print_json, print_text, say
from agentpipe.core.text import encodable

if TYPE_CHECKING:
    import argparse

    from agentpipe.operations.project.scaffold import NewProject


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "folder",
        metavar="FOLDER",
        nargs="?",
        default=".",
        help="new or empty folder (default: .)",
    )
    parser.add_argument(
        "--from-mcp-universe",
        metavar="PATH",
        help="folder, collection, agent, benchmark or tasks to copy, with all they refer to",
    )
    add_run_code(parser)
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Create the project, and print commands to try next."""
    from agentpipe.operations.project.scaffold import create_from, create_sample

    folder = Path(args.folder)
    if args.from_mcp_universe:
        source = Path(args.from_mcp_universe)
        project = create_from(source, folder, os.environ, run_code=args.run_code)
    else:
        project = create_sample(folder)
    print_json(_as_dict(project)) if args.json else _print(project)
    return OK


def _as_dict(project: NewProject) -> dict[str, object]:
    return {
        "folder": encodable(str(project.folder)),
        "files": list(map(encodable, project.files)),
        "runs": list(map(file_as_dict, project.runs)),
        "notes": list(map(encodable, project.notes)),
        "next": list(map(encodable, project.commands)),
    }


def _print(project: NewProject) -> None:
    say(f"{len(project.files)} files in {project.folder}")
    for each in project.runs:
        reasons = f": {'; '.join(each.reasons)}" if each.reasons else ""
        say(f"  {each.runs:<12} {each.file} ({each.kind}){reasons}")
    for note in project.notes:
        say(note)
    say("Try next:")
    for command in project.commands:
        print_text(command)

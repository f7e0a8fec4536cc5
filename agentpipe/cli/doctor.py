"""``agentpipe doctor``: versions, servers, clocks and limits, and what to do."""

from __future__ import annotations

import os
from dataclasses import asdict
from typing import TYPE_CHECKING

from agentpipe.cli import FAILED, OK, UNREACHABLE
from agentpipe.cli.common import add_common, print_json, print_text, settings_of

if TYPE_CHECKING:
    import argparse

    from agentpipe.doctor import Examination

MARKS = {"ok": "ok  ", "warn": "WARN", "fail": "FAIL"}


def add(parser: argparse.ArgumentParser) -> None:
    """The command's arguments."""
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print each finding; 4 if a server does not answer, 1 if anything else has failed."""
    from agentpipe.doctor import examine

    examination = examine(settings_of(args), os.environ)
    if args.json:
        checks = [asdict(each) for each in examination.findings]
        print_json({"ok": examination.is_ok, "checks": checks})
    else:
        _print(examination)
    if examination.unreachable:
        return UNREACHABLE
    return OK if examination.is_ok else FAILED


def _print(examination: Examination) -> None:
    for each in examination.findings:
        print_text(f"{MARKS[each.status]} {each.name}: {each.found}")
        if each.advice:
            print_text(f"     -> {each.advice}")
    worst = [each for each in examination.findings if each.status != "ok"]
    print_text(
        f"{len(worst)} of {len(examination.findings)} want a look" if worst else "all is well"
    )

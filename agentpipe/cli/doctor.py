"""``agentpipe doctor``: examine versions, servers, clocks and limits."""

from __future__ import annotations

import os
import shutil
import textwrap
from dataclasses import asdict
from typing import TYPE_CHECKING

from agentpipe.cli.exit_codes import FAILED, OK, UNREACHABLE, USAGE
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common
from agentpipe.cli.output import print_json, print_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from agentpipe.connections.health import Finding
    from agentpipe.operations.doctor import Examination

MARKS = {"ok": "ok", "warn": "WARN", "fail": "FAIL"}
ROLES = ("broker", "sink")
NAME_WIDTH = 22
INDENT = " " * 6
# Without a terminal, print one line per finding, so that grep finds whole findings.
WIDEST = 10_000


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print each finding; the worst one decides the exit code."""
    from agentpipe.operations.doctor import examine

    examination = examine(settings_of(args), os.environ)
    failed = examination.count("fail")
    if args.json:
        checks = [{**asdict(each), "advice": each.advice or None} for each in examination.findings]
        print_json({"ok": not failed, "checks": checks})
    else:
        for line in _lines(examination, shutil.get_terminal_size((WIDEST, 0)).columns):
            print_text(line, head=len(INDENT))
    if examination.misnamed:
        return USAGE
    if examination.unreachable:
        return UNREACHABLE
    return FAILED if failed else OK


def _lines(examination: Examination, width: int) -> Iterator[str]:
    place = ""
    for each in examination.findings:
        role, _, name = each.name.partition(" ")
        if role not in ROLES:
            role, name = "this machine", each.name
        if role != place:
            yield role
        place = role
        yield from _finding(each, name or "reached", width)
    yield _summary(examination)


def _finding(finding: Finding, name: str, width: int) -> Iterator[str]:
    head = f"{MARKS[finding.status]:<{len(INDENT)}}{name:<{NAME_WIDTH}} "
    yield from _wrapped(head, finding.found, width)
    if finding.advice:
        yield from _wrapped(f"{INDENT}{'':>{NAME_WIDTH - 3}} -> ", finding.advice, width)


def _wrapped(head: str, text: str, width: int) -> list[str]:
    return textwrap.wrap(
        text,
        max(width, 2 * len(head)),
        initial_indent=head,
        subsequent_indent=" " * len(head),
        break_long_words=False,
        break_on_hyphens=False,
    )


def _summary(examination: Examination) -> str:
    failed, warned = examination.count("fail"), examination.count("warn")
    if not failed + warned:
        return "no problems"
    return f"{failed} failed, {warned} warnings, of {len(examination.findings)} checks"

"""``agentpipe show``: print a task's Result as a page, as a conversation, or as JSON."""

from __future__ import annotations

import shutil
import sys
from typing import TYPE_CHECKING, Any, TextIO

from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.exit_codes import FAILED, OK
from agentpipe.cli.guard import unguarded
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_common
from agentpipe.cli.output import print_json, say
from agentpipe.core.text import counted, encodable, one_line, printable
from agentpipe.errors import AgentpipeError, ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.archive import Archive
    from agentpipe.core.result import Result
    from agentpipe.settings import Settings
    from agentpipe.show.page import Page

_ID_CHARS = 256


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("task", metavar="TASK", help="a task's id")
    parser.add_argument(
        "--messages", action="store_true", help="only its conversations with models"
    )
    parser.add_argument("--full", action="store_true", help="cut no text, leave out no span")
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print the last Result of the task, or why there is none."""
    from agentpipe.archive import Archive

    settings = settings_of(args)
    require_results(args, settings)
    task_id = encodable(args.task)
    try:
        opened = Archive.open(settings)
    except ConfigError:
        if _say_state(task_id, settings):  # No task has ended yet, so there is no file.
            return FAILED
        raise
    with opened as archive:
        results = list(archive.results_of(task_id))
        if not results:
            return _say_absent(archive, task_id, settings)
        _print(args, results[-1])
        _say_others(archive, task_id, len(results))
    return OK


def _print(args: argparse.Namespace, result: Result) -> None:
    if args.json:
        print_json(_conversations(result) if args.messages else result.to_dict())
        return
    from agentpipe.show.card import draw_messages, draw_result
    from agentpipe.show.page import Page

    page = Page(shutil.get_terminal_size((100, 24)).columns, full=args.full)
    (draw_messages if args.messages else draw_result)(page, result)
    print_page(page, unguarded(sys.stdout))
    if page.cut:
        say("long texts are cut: --full shows them")


def print_page(page: Page, stream: TextIO) -> None:
    """Print the page's lines and clear them; use colours only on a terminal that supports them."""
    from agentpipe.tui.terminal import console

    screen = console(stream)
    for line in page.lines:
        line.rstrip()
        if line.style or line.spans:
            screen.print(line)
        else:
            stream.write(f"{line.plain}\n")
    stream.flush()
    page.lines.clear()


def _conversations(result: Result) -> dict[str, Any]:
    from agentpipe.core.transcript import transcripts

    whole = transcripts(result.trace)
    parts = [{"messages": it.messages, "tools": it.tools, "complete": it.complete} for it in whole]
    return {"task_id": result.task_id, "conversations": parts}


def _say_others(archive: Archive, task_id: str, number: int) -> None:
    from agentpipe.archive.relatives import last_retry

    if number > 1:
        say(f"{counted(number, 'result')} have this id: this is the last one")
    if retried := last_retry(archive, task_id):
        say(f"it was tried again: agentpipe show {one_line(retried, _ID_CHARS)}")


def _say_absent(archive: Archive, task_id: str, settings: Settings) -> int:
    """Print where the task is, if the broker knows it; suggest a similar id."""
    from agentpipe.archive.relatives import likely_id

    if not _say_state(task_id, settings):
        say(f"{one_line(task_id, _ID_CHARS)}: no result here, and no broker to ask")
    if likely := likely_id(archive, task_id):
        say(f"did you mean {printable(likely, keep='')}?")
    return FAILED


def _say_state(task_id: str, settings: Settings) -> bool:
    """Print what ``why`` says; False if the broker fails, or if the sink is not searchable."""
    from agentpipe.operations.explain.lookup import look_up
    from agentpipe.sinks import is_searchable

    if not is_searchable(settings):
        return False
    try:
        found = next(iter(look_up([task_id], settings)))
    except AgentpipeError:
        return False
    name = one_line(task_id, _ID_CHARS)
    if found.state in ("unknown", "settled", "delivered"):
        say(f"{name}: no result of this id here; {found.sentence}")
    else:
        say(f"{name} has no result yet: {found.sentence}", f"next: {found.next}")
    return True

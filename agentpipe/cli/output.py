"""Output: data on stdout, messages and questions on stderr; nothing in it controls a terminal."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.cli.colour import coloured, shows_colours
from agentpipe.cli.guard import unguarded
from agentpipe.core.redaction import without_password
from agentpipe.core.text import printable, printable_json
from agentpipe.errors import AgentpipeError, ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Mapping

    from agentpipe.operations.judging.reading import ResultsOfRuns
    from agentpipe.settings import Settings
    from agentpipe.sinks.stream import Stream


def print_json(value: Any) -> None:
    """Print one line of JSON, without characters that control a terminal."""
    sys.stdout.buffer.write(printable_json(orjson.dumps(value)) + b"\n")
    sys.stdout.buffer.flush()


def print_text(*lines: str, head: int = 0) -> None:
    """Print data. Each argument is one line: line breaks in it are escaped.

    On a terminal, outcomes and states in the first ``head`` characters of a line are coloured.
    """
    shown = [printable(line, keep="") for line in lines]
    if head and shows_colours():
        shown = [coloured(line[:head]) + line[head:] for line in shown]
    stream = unguarded(sys.stdout)
    stream.write("".join(f"{line}\n" for line in shown))
    stream.flush()


def print_either(args: argparse.Namespace, record: Mapping[str, Any], *lines: str) -> None:
    """Print the record with ``--json``, else the lines."""
    print_json(record) if args.json else print_text(*lines)


def say(*lines: str) -> None:
    """Print a message to stderr; each argument is one line."""
    sys.stderr.write("".join(f"{printable(line, keep='')}\n" for line in lines))


def say_skipped(stream: Stream | ResultsOfRuns) -> None:
    """Report how many records were skipped because they are not results."""
    if stream.skipped:
        say(f"{stream.skipped} records could not be read")


def confirms(question: str) -> bool:
    """Ask on the terminal; only ``y`` or ``yes`` confirms."""
    sys.stderr.write(f"{printable(question, keep='')} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def confirm(args: argparse.Namespace, question: str, unasked: str) -> None:
    """Ask before an action that cannot be undone, unless ``--yes`` is given.

    Raises:
        ConfigError: There is no terminal to ask on; the message begins with ``unasked``.
        AgentpipeError: The answer is no.
    """
    if args.yes:
        return
    if not sys.stdin.isatty():
        raise ConfigError(f"{unasked}: confirm with --yes")
    if not confirms(question):
        raise AgentpipeError("nothing changed")


def say_where(settings: Settings) -> None:
    """Print the broker and the sink that a command uses."""
    say(f"broker {without_password(settings.broker)}, sink {without_password(settings.sink)}")

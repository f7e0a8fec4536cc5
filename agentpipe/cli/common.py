"""What commands share: common options, opened stores, and output."""

from __future__ import annotations

import argparse
import math
import os
import sys
from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.cli.colour import coloured, shows_colours
from agentpipe.cli.guard import unguarded
from agentpipe.connections.environment import PEER_VARIABLES, URL_VARIABLES
from agentpipe.core.did_you_mean import unknown
from agentpipe.core.redaction import without_password
from agentpipe.core.run_names import RUN_NAME, is_run_name
from agentpipe.core.text import printable, printable_json
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.operations.judging.reading import ResultsOfRuns
    from agentpipe.sinks.base import Sink
    from agentpipe.sinks.stream import Stream

    # A parser is a group too.
    ArgumentGroup = argparse.ArgumentParser | argparse._ArgumentGroup  # noqa: SLF001 - has no public name


USUAL_FILE = "collection.yaml"
LOCALHOST = "127.0.0.1"
_MAX_PORT = 65_535


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that most commands have."""
    group = parser.add_argument_group("common options")
    add_collection_file(group)
    group.add_argument(
        "--broker",
        metavar="URL",
        help="broker of the tasks (default: $AGENTPIPE_BROKER, else embedded)",
    )
    group.add_argument(
        "--sink",
        metavar="URL",
        help="sink of the results (default: $AGENTPIPE_SINK, else embedded)",
    )
    add_json(group)


def add_collection_file(parser: ArgumentGroup) -> None:
    """Add ``-c``."""
    parser.add_argument(
        "-c",
        "--collection-file",
        metavar="FILE",
        help=f"collection file (default: $AGENT_COLLECTION_CONFIG_FILE, else {USUAL_FILE})",
    )


def add_json(parser: ArgumentGroup, text: str = "print JSON") -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help=text)


def add_address(parser: argparse.ArgumentParser, default_port: int) -> None:
    """Add ``--host`` and ``--port`` to a command that listens."""
    parser.add_argument(
        "--host",
        default=LOCALHOST,
        help=f"address to listen on (default: {LOCALHOST}, this machine only)",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=port,
        default=default_port,
        help=f"port, 0 for any free one (default: {default_port})",
    )


def add_on_full(parser: argparse.ArgumentParser) -> None:
    """Add ``--on-full``."""
    parser.add_argument(
        "--on-full",
        choices=("refuse", "wait"),
        default="refuse",
        help="refuse tasks or wait when every queue is full (default: refuse)",
    )


def add_run(parser: ArgumentGroup, text: str = "only tasks of this run") -> None:
    """Add ``--run NAME``; its value is ``run_name``, since ``run`` is the command's function."""
    parser.add_argument("--run", dest="run_name", metavar="NAME", type=run_name, help=text)


def run_name(text: str) -> str:
    """Parse the name of a run."""
    if not is_run_name(text):
        raise argparse.ArgumentTypeError(f"{text[:80]!a}: expected {RUN_NAME}")
    return text


def seconds(text: str) -> float:
    """Parse a duration; refuse NaN, which no time limit would ever reach."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds from 0, got {text[:80]!a}")
    return value


def port(text: str) -> int:
    """Parse a port number; 0 means any free port."""
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= _MAX_PORT):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {_MAX_PORT}, got {text!r}")
    return int(text)


def finite(text: str) -> float:
    """Parse a finite number; comparisons with NaN are always false."""
    value = _number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text[:80]!a}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def settings_of(args: argparse.Namespace) -> Settings:
    """Settings from the environment, overridden by options."""
    environ = dict(os.environ)
    for option, ours in URL_VARIABLES.items():
        if url := getattr(args, option):
            environ[ours] = url
            warn_of_password(option, url)
            # MCP-Universe's variables for the same server would contradict the option.
            for name in PEER_VARIABLES:
                if name.startswith("REDIS") == (option == "broker"):
                    environ.pop(name, None)
    return Settings.from_env(environ)


def warn_of_password(option: str, url: str) -> None:
    """Warn of a password in an argument: every user of the machine can list it."""
    if without_password(url) != url:
        variable = URL_VARIABLES[option]
        say(f"warning: --{option} shows its password in the process list: set {variable} instead")


def collection_file(args: argparse.Namespace, settings: Settings) -> Path:
    """The path from ``-c``, from the environment, or ``collection.yaml`` in the current folder.

    Raises:
        ConfigError: None of the three is there.
    """
    from pathlib import Path

    if args.collection_file:
        return Path(args.collection_file)
    if settings.collection_file is not None:
        return settings.collection_file
    if Path(USUAL_FILE).is_file():
        return Path(USUAL_FILE)
    raise ConfigError(
        "name a collection file with -c FILE or AGENT_COLLECTION_CONFIG_FILE: "
        f"there is no {USUAL_FILE} in this folder"
    )


def collections_of(args: argparse.Namespace, settings: Settings) -> tuple[Collection, ...]:
    """The collections in the collection file."""
    from agentpipe.config.collection import load

    return load(collection_file(args, settings), settings.max_queue_size)


def named_collection(
    collections: Iterable[Collection], args: argparse.Namespace, settings: Settings
) -> Collection:
    """The collection that the argument ``COLLECTION`` names.

    Raises:
        ConfigError: The file has no such collection; the message suggests the nearest name.
    """
    named = {each.name: each for each in collections}
    if args.collection not in named:
        where = f"in {collection_file(args, settings)}"
        raise ConfigError(unknown("collection", args.collection, named, where))
    return named[args.collection]


def opened_store(settings: Settings) -> closing[Store]:
    """The broker's store, as a context manager that closes it."""
    from agentpipe.brokers import open_store

    return closing(open_store(settings))


def store_to_read(settings: Settings) -> closing[Store]:
    """Like ``opened_store``, for a command that only reads: it waits for no writer."""
    from agentpipe.brokers import open_to_read

    return closing(open_to_read(settings))


def opened_sink(settings: Settings) -> closing[Sink]:
    """The sink, as a context manager that closes it."""
    from agentpipe.sinks import open_sink

    return closing(open_sink(settings))


def refuse_below_one(option: str, value: int | None) -> None:
    """Raise ``ConfigError`` if the option is given and less than 1."""
    if value is not None and value < 1:
        raise ConfigError(f"{option} must be at least 1, got {value}")


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

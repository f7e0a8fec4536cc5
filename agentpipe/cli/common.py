"""What commands share: their common options, and how they print."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.core.redaction import without_password
from agentpipe.core.text import printable
from agentpipe.errors import ConfigError
from agentpipe.settings import SEED_VARIABLES, Settings

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator
    from pathlib import Path

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.sinks.base import Sink


def add_common(parser: argparse.ArgumentParser) -> None:
    """The options that every command takes."""
    parser.add_argument(
        "-c",
        "--collection-file",
        metavar="FILE",
        help="the collection file (default: $AGENT_COLLECTION_CONFIG_FILE)",
    )
    parser.add_argument(
        "--broker",
        metavar="URL",
        help="where tasks wait (default: $AGENTPIPE_BROKER, else embedded)",
    )
    parser.add_argument(
        "--sink", metavar="URL", help="where results go (default: $AGENTPIPE_SINK, else embedded)"
    )
    parser.add_argument("--json", action="store_true", help="print JSON")


def settings_of(args: argparse.Namespace) -> Settings:
    """The environment's settings, with the command's options in their place."""
    environ = dict(os.environ)
    for option, ours in (("broker", "AGENTPIPE_BROKER"), ("sink", "AGENTPIPE_SINK")):
        if url := getattr(args, option):
            environ[ours] = url
            # What was named for it elsewhere does not count beside an option.
            for name in SEED_VARIABLES:
                if name.startswith("REDIS") == (option == "broker"):
                    environ.pop(name, None)
    return Settings.from_env(environ)


def collection_file(args: argparse.Namespace, settings: Settings) -> Path:
    """The collection file that the command works with.

    Raises:
        ConfigError: None was named.
    """
    from pathlib import Path

    if args.collection_file:
        return Path(args.collection_file)
    if settings.collection_file is None:
        raise ConfigError(
            "name a collection file with -c FILE, or set AGENT_COLLECTION_CONFIG_FILE"
        )
    return settings.collection_file


def collections_of(args: argparse.Namespace, settings: Settings) -> tuple[Collection, ...]:
    """The collections of that file."""
    from agentpipe.config.collection import load

    return load(collection_file(args, settings), settings.max_queue_size)


@contextmanager
def opened_store(settings: Settings) -> Iterator[Store]:
    """The broker's store for the length of a command."""
    from agentpipe.brokers import open_store

    store = open_store(settings)
    try:
        yield store
    finally:
        store.close()


@contextmanager
def opened_sink(settings: Settings) -> Iterator[Sink]:
    """The sink for the length of a command."""
    from agentpipe.sinks import open_sink

    sink = open_sink(settings)
    try:
        yield sink
    finally:
        sink.close()


def print_json(value: Any) -> None:
    """One line on stdout."""
    sys.stdout.buffer.write(orjson.dumps(value) + b"\n")
    sys.stdout.buffer.flush()


def print_text(text: str) -> None:
    """One line on stdout, harmless to a terminal."""
    sys.stdout.write(printable(text) + "\n")
    sys.stdout.flush()


def say(text: str) -> None:
    """Words for the person at the terminal, apart from the data."""
    sys.stderr.write(printable(text) + "\n")


def agrees(question: str) -> bool:
    """What the person at the terminal says to it; only a clear yes counts."""
    sys.stderr.write(f"{question} [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def say_where(settings: Settings) -> None:
    """Name the stores that a command uses."""
    say(f"broker {without_password(settings.broker)}, sink {without_password(settings.sink)}")


def encodable(text: str) -> str:
    """``text`` as JSON can say it: a file's name may hold bytes that are no characters."""
    return text.encode("utf-8", "backslashreplace").decode()


def wants_color() -> bool:
    """Whether stdout is a terminal that may be coloured."""
    return sys.stdout.isatty() and not os.environ.get("NO_COLOR")

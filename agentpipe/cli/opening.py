"""What the common options name: settings, collections, and the opened broker and sink."""

from __future__ import annotations

import os
from contextlib import closing
from typing import TYPE_CHECKING

from agentpipe.cli.options import USUAL_FILE
from agentpipe.cli.output import say
from agentpipe.connections.environment import PEER_VARIABLES, URL_VARIABLES
from agentpipe.core.did_you_mean import unknown
from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings, misspelt_variables

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.sending.dispatcher import Dispatcher
    from agentpipe.sinks.base import Sink


def settings_of(args: argparse.Namespace) -> Settings:
    """Settings from the environment, overridden by options; read, and warned of, once a command."""
    if isinstance(known := getattr(args, "settings", None), Settings):
        return known
    environ = dict(os.environ)
    warn_of_misspelt(environ)
    for option, ours in URL_VARIABLES.items():
        if url := getattr(args, option):
            environ[ours] = url
            warn_of_password(option, url)
            # MCP-Universe's variables for the same server would contradict the option.
            for name in PEER_VARIABLES:
                if name.startswith("REDIS") == (option == "broker"):
                    environ.pop(name, None)
    settings = args.settings = Settings.from_env(environ)
    return settings


def warn_of_password(option: str, url: str) -> None:
    """Warn of a password in an argument: every user of the machine can list it."""
    if without_password(url) != url:
        variable = URL_VARIABLES[option]
        say(f"warning: --{option} shows its password in the process list: set {variable} instead")


def warn_of_misspelt(environ: Mapping[str, str]) -> None:
    """Warn of variables that look like settings: what they set would silently be a default."""
    say(*(f"warning: {sentence}" for sentence in misspelt_variables(environ)))


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


def named_collections(args: argparse.Namespace, settings: Settings) -> tuple[Collection, ...]:
    """The collections of the file that the user names; a usual file here is not named."""
    is_named = args.collection_file or settings.collection_file
    return collections_of(args, settings) if is_named else ()


def declare_named(dispatcher: Dispatcher, args: argparse.Namespace, settings: Settings) -> None:
    """Declare the collections of the file that the user names, if any."""
    if named := named_collections(args, settings):
        dispatcher.declare(named)


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

"""The embedded store of the current folder: commands that only read do not create one."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.errors import AgentpipeError, ConfigError, Problem
from agentpipe.settings import BROKER_FILE, HOME, RESULTS_FILE, embedded_url, is_unmade

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from agentpipe.settings import Settings


def require_tasks(args: argparse.Namespace, settings: Settings) -> None:
    """Refuse to read tasks where no embedded broker is; any other broker is named on purpose.

    Raises:
        AgentpipeError: With the nearest one.
        ConfigError: ``-c`` names a file that does not exist.
    """
    _refuse_absent_file(args)
    if not has_tasks(settings):
        raise _missing(args, settings, BROKER_FILE, "--broker")


def has_tasks(settings: Settings) -> bool:
    """Whether there is a broker to ask: to open an embedded one would make it."""
    return not is_unmade(settings.broker)


def require_results(args: argparse.Namespace, settings: Settings) -> None:
    """Refuse to read results of an embedded sink that no broker here will ever fill.

    Raises:
        AgentpipeError: With the nearest one.
        ConfigError: ``-c`` names a file that does not exist.
    """
    _refuse_absent_file(args)
    if is_unmade(settings.sink) and is_unmade(settings.broker):
        raise _missing(args, settings, RESULTS_FILE, "--sink")


def _refuse_absent_file(args: argparse.Namespace) -> None:
    """Such a command reads no collection, but a wrong path is a mistake all the same."""
    if args.collection_file and not os.path.lexists(args.collection_file):
        raise ConfigError(Problem("no such file: check the path", args.collection_file))


def elsewhere(args: argparse.Namespace, settings: Settings, name: str) -> Path | None:
    """The nearest folder with such a store: beside the collection file, or above this one."""
    here = Path.cwd()
    found = (folder for folder in _places(args, settings) if _exists(folder, name))
    return next((folder for folder in found if folder != here), None)


def _places(args: argparse.Namespace, settings: Settings) -> Iterator[Path]:
    given = args.collection_file or settings.collection_file
    if given:
        yield Path(os.path.realpath(given)).parent
    yield from Path.cwd().parents


def _exists(folder: Path, name: str) -> bool:
    try:
        return (folder / HOME / name).exists()
    except OSError:  # A folder that this user may not read.
        return False


def _missing(
    args: argparse.Namespace, settings: Settings, name: str, option: str
) -> AgentpipeError:
    what = f"there is no {HOME}/{name} in {Path.cwd()}"
    folder = elsewhere(args, settings, name)
    if folder is None:
        return AgentpipeError(f"{what}: send tasks first, or name a server with {option}")
    return AgentpipeError(
        f"{what}; the nearest one is in {folder}: run the command there, "
        f"or add {option} {embedded_url(name, folder)}"
    )

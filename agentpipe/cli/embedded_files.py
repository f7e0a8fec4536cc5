"""Embedded files: what the commands that only read need of them, since they must not create one."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.connections.environment import URL_VARIABLES
from agentpipe.connections.sqlite_address import is_absent, parse_url
from agentpipe.errors import AgentpipeError, ConfigError, Problem
from agentpipe.settings import BROKER_FILE, HOME, RESULTS_FILE, embedded_url

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from agentpipe.settings import Settings

LOOK_EVERY_S = 0.1


def require_tasks(args: argparse.Namespace, settings: Settings) -> None:
    """Refuse to read tasks from an embedded broker that does not exist.

    Raises:
        AgentpipeError: There is no broker file; the message names the nearest one, or the variable.
        ConfigError: ``-c`` names a file that does not exist.
    """
    _refuse_absent_file(args)
    if not has_tasks(settings):
        raise _missing(args, settings, BROKER_FILE, "broker")


def has_tasks(settings: Settings) -> bool:
    """Whether the broker exists; opening an embedded one would create it."""
    return not is_absent(settings.broker)


def require_results(args: argparse.Namespace, settings: Settings, *, now: bool = False) -> None:
    """Refuse to read results from an embedded sink that does not exist.

    If the broker exists, the first result may still be on its way, unless ``--sink`` is a typo or
    the command needs it ``now``.

    Raises:
        AgentpipeError: There is no results file; the message names the nearest one, or the
            variable.
        ConfigError: ``-c`` names a file that does not exist.
    """
    _refuse_absent_file(args)
    if not is_absent(settings.sink):
        return
    if args.sink or is_absent(settings.broker):
        raise _missing(args, settings, RESULTS_FILE, "sink")
    if now:
        raise AgentpipeError(
            f"there is no file {parse_url(settings.sink).path} yet: the first result makes it; or "
            f"correct {URL_VARIABLES['sink']}"
        )


def await_results(settings: Settings, timeout_s: float | None) -> bool:
    """Wait until the first result has made an embedded sink; false if the time was too short."""
    until = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
    while is_absent(settings.sink):
        if time.monotonic() >= until:
            return False
        time.sleep(LOOK_EVERY_S)
    return True


def _refuse_absent_file(args: argparse.Namespace) -> None:
    """Refuse a wrong ``-c`` path, even in commands that do not read the file."""
    if args.collection_file and not os.path.lexists(args.collection_file):
        raise ConfigError(Problem("no such file: check the path", args.collection_file))


def elsewhere(args: argparse.Namespace, settings: Settings, name: str) -> Path | None:
    """The nearest other folder with this store: beside the collection file, or a parent folder."""
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
    except OSError:  # This user cannot read the folder.
        return False


def _missing(args: argparse.Namespace, settings: Settings, name: str, role: str) -> AgentpipeError:
    url = getattr(settings, role)
    if url != embedded_url(name):
        path, variable = parse_url(url).path, URL_VARIABLES[role]
        return AgentpipeError(
            f"there is no file {path}: what sends or works makes it; or correct --{role} or "
            f"{variable}"
        )
    what = f"there is no {HOME}/{name} in {Path.cwd()}"
    folder = elsewhere(args, settings, name)
    if folder is None:
        return AgentpipeError(f"{what}: send tasks first, or name a server with --{role}")
    return AgentpipeError(
        f"{what}; the nearest one is in {folder}: run the command there, "
        f"or add --{role} {embedded_url(name, folder)}"
    )

"""Space: all data of one trial, under one name; also cleans up after killed trials."""

from __future__ import annotations

import fcntl
import os
import secrets
import shutil
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import orjson

from agentpipe.connections import plugins
from agentpipe.connections.private_files import make_file, make_folder
from agentpipe.connections.scratch import MakesScratch
from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError
from agentpipe.settings import HOME

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from agentpipe.connections.scratch import Scratch
    from agentpipe.settings import Settings

PREFIX = "chaos-"
LOCK, NOTE = "lock", "space.json"


@dataclass(frozen=True, slots=True)
class Space:
    """A scratch space on a broker and a sink, plus a local folder.

    Attributes:
        settings: Settings that point to this space.
        lock: Descriptor of a file that is locked while the trial runs.
    """

    name: str
    folder: Path
    broker: Scratch
    sink: Scratch
    settings: Settings
    lock: int = -1

    @classmethod
    def of(cls, settings: Settings, name: str, home: Path) -> Space:
        """Return the space of this name; creates nothing.

        Raises:
            ConfigError: A URL is invalid, or its broker or sink does not support scratch spaces.
        """
        broker = _scratch("agentpipe.brokers", settings.broker, name)
        sink = _scratch("agentpipe.sinks", settings.sink, name)
        own = replace(settings, broker=broker.url, sink=sink.url)
        return cls(name, home / name, broker, sink, own)

    def remove(self) -> None:
        """Remove all of it; the folder last, since it records where the rest is."""
        self.broker.remove()
        self.sink.remove()
        shutil.rmtree(self.folder)
        _remove_if_empty(self.folder.parent)


def _scratch(group: str, url: str, name: str) -> Scratch:
    kind = plugins.load_for_url(group, url)
    if not isinstance(kind, MakesScratch):
        noun = plugins.NOUNS[group]
        raise ConfigError(f"this {noun} gives no space of its own: {without_password(url)}")
    return kind.scratch(url, name)


@contextmanager
def new_space(settings: Settings, home: Path | None = None) -> Iterator[Space]:
    """Create a space, and remove it after the block.

    A killed process leaves its folder, from which the next one can find and remove the rest.
    """
    home = home or Path.cwd() / HOME
    space = Space.of(settings, f"{PREFIX}{secrets.token_hex(4)}", home)
    make_folder(space.folder)
    lock = _locked(space.folder)
    assert lock is not None, "no other process knows the name"
    try:
        note = {
            "broker": without_password(settings.broker),
            "sink": without_password(settings.sink),
        }
        make_file(space.folder / NOTE)
        (space.folder / NOTE).write_bytes(orjson.dumps(note))
        yield replace(space, lock=lock)
        space.remove()
    except BaseException:
        space.remove()
        raise
    finally:
        os.close(lock)


def _locked(folder: Path) -> int | None:
    """Lock the folder until the last process closes the file; None if another process holds it."""
    file = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        os.close(file)
        return None
    return file


def remove_left(
    settings: Settings, say: Callable[[str], None], home: Path | None = None
) -> Sequence[str]:
    """Remove what killed trials left on this broker and sink; return their names."""
    home = home or Path.cwd() / HOME
    here = {"broker": without_password(settings.broker), "sink": without_password(settings.sink)}
    removed = []
    for folder in sorted(home.glob(f"{PREFIX}*/")):
        lock = _locked(folder)
        if lock is None:
            say(f"{folder.name} is in use, or its workers are ending: left as it is")
            continue
        try:
            left = _note_of(folder)
            if left not in ({}, here):
                say(
                    f"{folder.name} was left on {left['broker']} and {left['sink']}: remove it "
                    "with agentpipe chaos --clean and the same --broker and --sink"
                )
                continue
            Space.of(settings, folder.name, home).remove()
            removed.append(folder.name)
        finally:
            os.close(lock)
    return removed


def _note_of(folder: Path) -> dict[str, str]:
    """Return where the rest of the space is; empty if the trial was killed before creating it."""
    try:
        note: dict[str, str] = orjson.loads((folder / NOTE).read_bytes())
    except (FileNotFoundError, ValueError):
        return {}
    return note


def _remove_if_empty(folder: Path) -> None:
    if not any(folder.iterdir()):
        folder.rmdir()

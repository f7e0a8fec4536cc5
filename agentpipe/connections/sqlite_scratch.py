"""A scratch file beside a database, and its lock."""

from __future__ import annotations

import sqlite3
from contextlib import closing, contextmanager
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote, urlsplit

from agentpipe.connections.scratch import Scratch
from agentpipe.connections.sqlite import PATIENCE_S
from agentpipe.connections.sqlite_address import parse_url

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def scratch_of(url: str, name: str) -> Scratch:
    """A separate file in the folder of the database that ``url`` names."""
    path = parse_url(url).path
    own = path.with_name(f"{path.stem}-{name}{path.suffix}")
    query = urlsplit(url).query
    return Scratch(
        f"sqlite:///{quote(bytes(own))}" + (f"?{query}" if query else ""),
        partial(_remove, own),
        lock=partial(_locked, own),
    )


def _remove(path: Path) -> None:
    """Remove the file and everything that SQLite and agentpipe keep beside it."""
    for each in path.parent.glob(f"{_escaped(path.name)}*"):
        each.unlink(missing_ok=True)


def _escaped(name: str) -> str:
    return "".join(f"[{letter}]" if letter in "*?[" else letter for letter in name)


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Lock the file as a foreign program would: with a transaction that stays open."""
    with closing(sqlite3.connect(path, timeout=PATIENCE_S, isolation_level=None)) as db:
        db.execute("BEGIN IMMEDIATE")
        yield
        db.execute("ROLLBACK")

"""FileWatch: detects changes in a collection's files: configs, and the code beside them."""

from __future__ import annotations

import os
from itertools import islice
from typing import TYPE_CHECKING

from agentpipe.config.agent_config import search_folders
from agentpipe.config.collection import load
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

SUFFIXES = (".py", ".yaml", ".yml")
# Environments and caches, in addition to folders whose names start with a dot.
PASSED_OVER = frozenset({"__pycache__", "node_modules", "site-packages", "venv"})
# Checking this many files takes some tens of milliseconds.
MOST_FILES = 10_000

# Modification time and size per file.
Seen = dict[str, tuple[int, int]]


class FileWatch:
    """Compares the files with the last look.

    A file counts as changed if its time or size differs. A change is reported once two looks in a
    row agree on it, because editors write a file in several steps.
    """

    def __init__(self, collection_file: Path) -> None:
        self._collection_file = collection_file.absolute()
        self._folders: tuple[Path, ...] = ()
        self._named: tuple[Path, ...] = ()
        self._find()
        self._reported = self._before = self._look()

    def changed(self) -> list[str]:
        """Files that were added, removed or changed since the last report."""
        now = self._look()
        settled, self._before = now == self._before, now
        if not settled or now == self._reported:
            return []
        found = sorted(
            name
            for name in now.keys() | self._reported.keys()
            if now.get(name) != self._reported.get(name)
        )
        self._find()
        self._reported = self._before = self._look()
        return found

    def _find(self) -> None:
        """Find the files that the collections name; if those are unreadable, keep the old ones."""
        try:
            collections = load(self._collection_file)
        except ConfigError:
            self._folders = self._folders or (self._collection_file.parent,)
            self._named = self._named or (self._collection_file,)
            return
        configs = [each.config_file for each in collections]
        own = {self._collection_file.parent, *(config.parent for config in configs)}
        # Code can be here too, but not below: such a folder can contain a whole disk.
        wider = {folder for config in configs for folder in search_folders(config)} - own
        code = [file for folder in sorted(wider) for file in sorted(folder.glob("*.py"))]
        self._named, self._folders = (self._collection_file, *configs, *code), tuple(sorted(own))

    def _look(self) -> Seen:
        found: Seen = {}
        files = (file for folder in self._folders for file in _files_below(folder))
        for name in [*map(str, self._named), *islice(files, MOST_FILES)]:
            try:
                stat = os.stat(name)  # noqa: PTH116 - a Path per file costs more than the look
            except OSError:  # It was just removed.
                continue
            found[name] = (stat.st_mtime_ns, stat.st_size)
        return found


def _files_below(folder: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if _is_source(name))
        yield from (f"{parent}/{name}" for name in sorted(files) if name.endswith(SUFFIXES))


def _is_source(folder: str) -> bool:
    return folder not in PASSED_OVER and not folder.startswith(".")

"""Find the files that other files name."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote_from_bytes, unquote_to_bytes

from agentpipe.core.did_you_mean import did_you_mean

if TYPE_CHECKING:
    from collections.abc import Iterable

# Folders that MCP-Universe's runner searches after the current one, in a checkout of version 1.1.3
# and of a later version.
THEIR_TASK_FOLDERS = ("mcpuniverse/benchmark/configs", "task_configs")


def to_json(path: Path) -> str:
    """Encode a path for another process on this machine: JSON cannot hold non-UTF-8 bytes."""
    return quote_from_bytes(os.fsencode(path))


def from_json(text: str) -> Path:
    """Decode the output of ``to_json``."""
    return Path(os.fsdecode(unquote_to_bytes(text)))


def folders_for(file: Path) -> tuple[Path, ...]:
    """Return the folders to search: the file's own, the current one, then the file's parents."""
    folder = file.absolute().parent
    return (folder, Path.cwd(), *folder.parents)


def folders_for_tasks(file: Path) -> tuple[Path, ...]:
    """Return the folders for a benchmark's tasks: here the parent comes before the current one."""
    folder = file.absolute().parent
    near = (folder, folder.parent, *folders_for(file))
    return (*near, *(each / below for below in THEIR_TASK_FOLDERS for each in near))


def find_file(written: str, folders: Iterable[Path]) -> Path:
    """Return the absolute path of the first file that exists in one of ``folders``.

    Raises:
        FileNotFoundError: Names the first path tried, and a similar name.
    """
    places = list(dict.fromkeys((folder / written).absolute() for folder in folders))
    for place in places:
        if is_file(place):
            return place
    others = ", then from the current folder and from each folder above" if places[1:] else ""
    hint = did_you_mean(
        places[0].name, _names_beside(places), "write its path from this file's folder"
    )
    raise FileNotFoundError(f"no such file: tried {shown_path(places[0])!r}{others}; {hint}")


def shown_path(path: Path) -> str:
    """Return a path for messages: relative if it is below the current folder."""
    try:
        return str(path.relative_to(Path.cwd()))
    except (ValueError, OSError):
        return str(path)


def why_unreadable(error: Exception) -> str:
    """Return why a file that the user names cannot be read, and what to do."""
    if isinstance(error, FileNotFoundError):
        return "no such file: check the path"
    if isinstance(error, IsADirectoryError):
        return "a folder, not a file: give a file in it"
    reason = getattr(error, "strerror", None) or error
    return f"cannot be read ({reason}): check the path and its permissions"


def is_file(place: Path) -> bool:
    """Whether ``place`` is a file; strings that cannot be paths are accepted too."""
    try:
        return place.is_file()
    except (OSError, ValueError):  # no permission, too long a name, a NUL
        return False


def _names_beside(places: Iterable[Path]) -> list[str]:
    """Return the names in the first of the places' folders that can be listed."""
    for place in places:
        try:
            return [path.name for path in place.parent.iterdir()]
        except (OSError, ValueError):
            continue
    return []

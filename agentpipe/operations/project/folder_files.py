"""The data files of an untrusted folder: links that lead out of it are not followed."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Iterator

JSON, YAML = {".json", ".jsonl"}, {".yaml", ".yml"}


def files_below(path: Path) -> Iterator[Path | Problem]:
    """The path itself, or the JSON and YAML files below it; unreadable folders are problems."""
    if not path.is_dir():
        yield path
        return
    wrong: list[OSError] = []
    entered: set[tuple[int, int]] = set()
    _enters(path.absolute(), entered)
    for folder, folders, names in os.walk(path, onerror=wrong.append, followlinks=True):
        shown = [Path(folder, name) for name in sorted(folders) if not name.startswith(".")]
        files = [Path(folder, name) for name in sorted(names)]
        data = [file for file in files if file.suffix.lower() in JSON | YAML]
        outside = {each for each in (*shown, *data) if outside_link(each, path)}
        yield from map(problem_of_link, sorted(outside))
        folders[:] = [each.name for each in shown if each not in outside and _enters(each, entered)]
        yield from (file for file in data if file not in outside)
    for error in wrong:
        yield Problem(f"cannot be listed: {error.strerror}", str(error.filename))


def _enters(folder: Path, entered: set[tuple[int, int]]) -> bool:
    """False for a folder that was already entered, through a link."""
    try:
        status = folder.stat()
    except OSError:
        return False
    place = (status.st_dev, status.st_ino)
    new = place not in entered
    entered.add(place)
    return new


def outside_link(path: Path, root: Path) -> Path | None:
    """The link by which a path below ``root`` leads out of it; None if it stays inside.

    Also None for a path that is not written as below ``root``.
    """
    top, real_top = Path(os.path.abspath(root)), Path(os.path.realpath(root))  # noqa: PTH100 - links stay
    below = Path(os.path.abspath(path))  # noqa: PTH100 - links stay
    if not below.is_relative_to(top) or _is_inside(path, real_top):
        return None
    parts = [part for part in (below, *below.parents) if part != top and part.is_relative_to(top)]
    return next((part for part in reversed(parts) if not _is_inside(part, real_top)), path)


def _is_inside(path: Path, real_top: Path) -> bool:
    try:
        return Path(os.path.realpath(path)).is_relative_to(real_top)
    except (OSError, ValueError):
        return True  # It cannot be resolved; reading it reports why.


def problem_of_link(link: Path) -> Problem:
    """The problem for a link that leads out of the folder that the user named."""
    remedy = "put the file itself there, or remove the link"
    return Problem(f"a link that leads out of the folder is not followed: {remedy}", str(link))


def refuse_outside(path: Path, root: Path) -> None:
    """Raise ``ConfigError`` if a link on the way to ``path`` leads out of ``root``."""
    if link := outside_link(path, root):
        raise ConfigError(problem_of_link(link))


def refuse_what_is_no_file(path: Path) -> None:
    """Raise ``ConfigError`` for a pipe or a device, because opening one can block."""
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return  # Reading it reports why.
    if not stat.S_ISREG(mode) and not stat.S_ISDIR(mode):
        raise ConfigError(Problem("a pipe or a device: give a file", str(path)))

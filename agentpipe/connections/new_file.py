"""A file that appears under its name once it is complete; a crash leaves the old file, or none."""

from __future__ import annotations

import os
import stat
import tempfile
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

from agentpipe.connections.private_files import FILE_MODE
from agentpipe.errors import AgentpipeError, ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

_FIXED = "choose another path, or --force"


@contextmanager
def new_file(path: Path, *, force: bool, like: Path | None = None) -> Iterator[BinaryIO]:
    """Write to a temporary file that is renamed to ``path`` at the end, or removed on an error.

    Args:
        path: The final name.
        force: Whether to replace an existing file.
        like: A file whose group and other permissions to copy, within the umask. Without it, and
            until the new file is complete, only the owner can open it.

    Raises:
        ConfigError: The path exists, is not a regular file, or its folder is missing.
        AgentpipeError: The file cannot be written.
    """
    refuse_existing(path, force=force)
    try:
        with _temporary(path) as (file, name):
            yield file
            file.flush()
            os.fchmod(file.fileno(), _mode(like))
            os.fsync(file.fileno())
            _put(name, path, force=force)
    except FileExistsError as error:
        raise ConfigError(f"{path} has appeared meanwhile: {_FIXED}") from error
    except OSError as error:
        raise AgentpipeError(f"{path} cannot be written: {error.strerror or error}") from error


def refuse_existing(path: Path, *, force: bool) -> None:
    """Check the path before any work is done for it; raises the ``ConfigError`` of ``new_file``."""
    if not path.parent.is_dir():
        raise ConfigError(f"there is no folder {path.parent}: create it first")
    if not os.path.lexists(path):
        return
    if not path.is_file():
        raise ConfigError(f"{path} is not a regular file: choose another path, or - for stdout")
    if not force:
        raise ConfigError(f"{path} exists: {_FIXED}")


@contextmanager
def _temporary(path: Path) -> Iterator[tuple[BinaryIO, Path]]:
    """A private file in the same folder, because a rename stays within a file system."""
    descriptor, name = tempfile.mkstemp(
        prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent
    )
    try:
        with os.fdopen(descriptor, "wb") as file:
            yield file, Path(name)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)  # noqa: PTH108 - a string


def _mode(like: Path | None) -> int:
    try:
        found = stat.S_IMODE(like.stat().st_mode) if like else FILE_MODE
    except OSError:
        return FILE_MODE
    return FILE_MODE | (found & 0o066 & ~_umask())


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _put(name: Path, path: Path, *, force: bool) -> None:
    """Rename in one step; without ``force``, never replace a file."""
    if force:
        name.replace(path)
        return
    try:
        os.link(name, path)
    except FileExistsError:
        raise
    except OSError:  # This file system has no hard links.
        if os.path.lexists(path):
            raise FileExistsError(str(path)) from None
        name.rename(path)

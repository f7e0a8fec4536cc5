"""ReaderLock: shows other processes that a reader of a stream's file is alive."""

from __future__ import annotations

import errno
import fcntl
import os
import re
import uuid
from contextlib import suppress
from pathlib import Path

from agentpipe.connections.private_files import (
    FILE_MODE,
    keep_from_readers,
    make_folder,
    share,
)
from agentpipe.errors import Unreachable

# Names come from the stream's file, which others can write: only this pattern becomes a path.
_NAME = re.compile(r"[0-9a-f]{32}")
_FLAGS = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NOFOLLOW
# The path is a link, a folder or a socket.
_NO_FILE = (errno.ELOOP, errno.EISDIR, errno.ENXIO)


class ReaderLock:
    """An advisory lock on the reader's own file: the kernel frees it when the process ends.

    Attributes:
        name: The reader's name for other processes, 32 hexadecimal digits.
    """

    def __init__(self, database: Path) -> None:
        self.name = uuid.uuid4().hex
        folder = Path(f"{database}-readers")
        try:
            make_folder(folder)
            # Resolve names in this exact folder, even if its path is replaced later.
            self._folder = os.open(folder, _FOLDER_FLAGS)
            share(self._folder, database)
            keep_from_readers(self._folder)
            self._file = self._open(self.name, os.O_CREAT | os.O_EXCL)
            share(self._file, database)
            fcntl.flock(self._file, fcntl.LOCK_EX)
        except OSError as error:
            raise Unreachable(f"cannot use {folder}: {error}") from error

    def is_alive(self, reader: str) -> bool:
        """Whether a reader is alive; removes the file of a dead one."""
        if reader == self.name:
            return True
        if not _NAME.fullmatch(str(reader)):
            return False
        try:
            file = self._open(reader)
        except FileNotFoundError:
            return False
        except OSError as error:
            # A link or a folder is not a reader. A file that we cannot open can belong to a live
            # one.
            return error.errno not in _NO_FILE
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            return True
        else:
            self._remove(reader)
            return False
        finally:
            os.close(file)

    def release(self) -> None:
        """Release the lock; idempotent."""
        if self._folder >= 0:
            self._remove(self.name)
            os.close(self._file)
            os.close(self._folder)
            self._folder = -1

    def _open(self, name: str, flags: int = 0) -> int:
        return os.open(name, _FLAGS | flags, FILE_MODE, dir_fd=self._folder)

    def _remove(self, name: str) -> None:
        with suppress(OSError):
            os.unlink(name, dir_fd=self._folder)

"""Files and folders of a store: private to the owner, and never opened through a link."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.connections.health import Finding, ok, warn
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterable

FILE_MODE, FOLDER_MODE = 0o600, 0o700
OTHERS = 0o007
# The last bytes of a rollback journal that names another file.
JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"


def make_folder(path: Path) -> None:
    """Create a folder and its missing parents, each private to its owner."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=FOLDER_MODE)


def make_file(path: Path) -> None:
    """Create an empty file, unless it exists.

    An existing file is not opened: closing it would release this process's locks on it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def open_beside(path: Path, database: Path) -> int:
    """Open or create a file that belongs to a database; returns its descriptor.

    Links are refused: they would lead to a file that is not part of the store.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        return os.open(path, flags)
    file = os.open(path, flags | os.O_CREAT, FILE_MODE)
    share(file, database)
    return file


def share(file: int, database: Path) -> None:
    """Open a new file to the group or other users if they can write the database."""
    with suppress(OSError):  # There is no database yet, or another user owns the file.
        mode, found = database.stat().st_mode, os.fstat(file).st_mode
        for bits, write, look in ((0o060, 0o020, 0o010), (0o006, 0o002, 0o001)):
            if mode & write:
                found |= bits | (look if stat.S_ISDIR(found) else 0)
        if found != os.fstat(file).st_mode:
            os.fchmod(file, stat.S_IMODE(found))


def keep_from_readers(file: int) -> None:
    """Remove read permission on a lock file from users who cannot write it.

    A user who can open a file can lock it and block its writers.
    """
    mode = stat.S_IMODE(os.fstat(file).st_mode)
    # The read (and, for a folder, search) bits of those without the write bit.
    excess = sum(bits for bits, write in ((0o050, 0o020), (0o005, 0o002)) if not mode & write)
    if mode & excess:
        with suppress(OSError):  # Another user owns it.
            os.fchmod(file, mode & ~excess)


def refuse_strange(database: Path) -> None:
    """Refuse files that SQLite would follow out of the folder, before it opens the database.

    SQLite writes through links, and deletes a file named at the end of a rollback journal. A
    process killed while it creates one of our files leaves a journal without such a name, which
    SQLite plays back.

    Raises:
        ConfigError: A file is a link, or the journal names another file.
    """
    log, index, journal = (Path(f"{database}{end}") for end in ("-wal", "-shm", "-journal"))
    for path in (log, index, journal):
        if path.is_symlink():
            raise ConfigError(f"{path} is a link, which no store has: remove it")
    if _names_a_file(journal):
        raise ConfigError(
            f"{journal} names a file to delete, as no journal of a store does: remove it"
        )


def _names_a_file(journal: Path) -> bool:
    """Whether it ends with the name of a super-journal: https://sqlite.org/fileformat.html."""
    try:
        with journal.open("rb") as file:
            file.seek(-min(len(JOURNAL_MAGIC), file.seek(0, os.SEEK_END)), os.SEEK_END)
            return file.read() == JOURNAL_MAGIC
    except FileNotFoundError:
        return False


def parts_of(database: Path) -> list[Path]:
    """The existing files and folders that belong to a database."""
    names = ("", "-wal", "-shm", "-lock", "-readers")
    paths = [database.with_name(database.name + name) for name in names]
    return [path for path in paths if path.exists()]


def open_to_others(paths: Iterable[Path]) -> list[Path]:
    """The paths that every user of the machine can read or write."""
    found = []
    for path in paths:
        with suppress(OSError):
            if path.stat().st_mode & OTHERS:
                found.append(path)
    return found


def advice(paths: Iterable[Path]) -> str:
    """The warning and the command that closes these paths to other users."""
    return f"tasks and results are readable by every user: chmod o-rwx {' '.join(map(str, paths))}"


def examine_modes(database: Path) -> Finding:
    """Check the file permissions for ``doctor``."""
    found = open_to_others(parts_of(database))
    if found:
        names = ", ".join(path.name for path in found)
        return warn("file mode", f"open to every user of this machine: {names}", advice(found))
    return ok("file mode", f"{stat.S_IMODE(database.stat().st_mode):04o}")

"""Files and folders of a store: of its owner alone, and never through another user's link."""

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
# The last bytes of a rollback journal that names a further file.
JOURNAL_MAGIC = b"\xd9\xd5\x05\xf9\x20\xa1\x63\xd7"


def make_folder(path: Path) -> None:
    """Make a folder and those above it that are missing, each for its owner alone."""
    if path.is_dir():
        return
    make_folder(path.parent)
    with suppress(FileExistsError):
        path.mkdir(mode=FOLDER_MODE)


def make_file(path: Path) -> None:
    """Make an empty file, unless there is one.

    An existing one is not opened: closing it would free this process's locks of it.
    """
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, FILE_MODE))


def open_beside(path: Path, database: Path) -> int:
    """Open a file that belongs to a database, or make it; returns its descriptor.

    A link would lead to a file that is not part of the store.
    """
    flags = os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW
    with suppress(FileNotFoundError):
        return os.open(path, flags)
    file = os.open(path, flags | os.O_CREAT, FILE_MODE)
    share(file, database)
    return file


def share(file: int, database: Path) -> None:
    """Open a new file to those who may write the database, where its mode was widened for them."""
    with suppress(OSError):  # There is no database yet, or the file is another user's.
        mode, found = database.stat().st_mode, os.fstat(file).st_mode
        for bits, write, look in ((0o060, 0o020, 0o010), (0o006, 0o002, 0o001)):
            if mode & write:
                found |= bits | (look if stat.S_ISDIR(found) else 0)
        if found != os.fstat(file).st_mode:
            os.fchmod(file, stat.S_IMODE(found))


def keep_from_readers(file: int) -> None:
    """Take from a lock's file what lets users open it who may not write it.

    A user who can open a file can lock it, and so stop its writers.
    """
    mode = stat.S_IMODE(os.fstat(file).st_mode)
    # The bits of reading (and of looking, for a folder) of those who have no bit of writing.
    excess = sum(bits for bits, write in ((0o050, 0o020), (0o005, 0o002)) if not mode & write)
    if mode & excess:
        with suppress(OSError):  # It is another user's.
            os.fchmod(file, mode & ~excess)


def refuse_strange(database: Path) -> None:
    """Refuse what SQLite would follow out of the folder, before it opens a file of a stranger.

    It writes through links, and deletes a file that the end of a rollback journal names. Who is
    killed while a file of ours is made leaves a journal without a name, which is played back.

    Raises:
        ConfigError: Naming the file.
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
    """The files and the folder of a database that exist."""
    names = ("", "-wal", "-shm", "-lock", "-readers")
    paths = [database.with_name(database.name + name) for name in names]
    return [path for path in paths if path.exists()]


def open_to_others(paths: Iterable[Path]) -> list[Path]:
    """Those that any user of the machine may read or write."""
    found = []
    for path in paths:
        with suppress(OSError):
            if path.stat().st_mode & OTHERS:
                found.append(path)
    return found


def advice(paths: Iterable[Path]) -> str:
    """The command that closes them."""
    return f"tasks and results are readable by every user: chmod o-rwx {' '.join(map(str, paths))}"


def examine_modes(database: Path) -> Finding:
    """A finding for ``doctor``."""
    found = open_to_others(parts_of(database))
    if found:
        names = ", ".join(path.name for path in found)
        return warn("file mode", f"open to every user of this machine: {names}", advice(found))
    return ok("file mode", f"{stat.S_IMODE(database.stat().st_mode):04o}")

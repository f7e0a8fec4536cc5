"""systemd credentials: variables in files that only this service can read."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

FOLDER = "CREDENTIALS_DIRECTORY"
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def from_credentials(environ: Mapping[str, str]) -> dict[str, str]:
    """The variables of ``$CREDENTIALS_DIRECTORY`` that ``environ`` lacks, by file name.

    A newline at the end of a file is not part of the value.

    Raises:
        ConfigError: A file is unreadable, not UTF-8, or contains a NUL character.
    """
    folder = environ.get(FOLDER, "")
    if not folder or not Path(folder).is_dir():
        return {}
    files = [file for file in sorted(Path(folder).iterdir()) if _NAME.fullmatch(file.name)]
    return {file.name: _text(file) for file in files if file.name not in environ}


def _text(file: Path) -> str:
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        what = error.strerror if isinstance(error, OSError) else "no UTF-8"
        raise ConfigError(f"the credential {file.name} cannot be read: {what}") from None
    if "\0" in text:
        raise ConfigError(f"the credential {file.name} has a NUL character: it is not a variable")
    return text.removesuffix("\n")

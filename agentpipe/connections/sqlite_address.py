"""SqliteAddress: the file that a URL names, and how durable its commits are."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import parse_qsl, unquote_to_bytes, urlsplit

from agentpipe.core.did_you_mean import did_you_mean
from agentpipe.errors import ConfigError

_SYNCHRONOUS = ("full", "normal")
# In bytes; systems allow 255 and 4,096, and files beside the database have longer names.
MAX_NAME, MAX_PATH = 240, 4_000


@dataclass(frozen=True, slots=True)
class SqliteAddress:
    """The path of a database, and how durable its commits are.

    Attributes:
        synchronous: ``full`` survives power loss; ``normal`` survives the death of any process,
            but a power loss may take the last commits.
    """

    path: Path
    synchronous: str = "full"


def parse_url(url: str) -> SqliteAddress:
    """Parse ``sqlite:///relative.db`` or ``sqlite:////absolute.db``, with ``?synchronous=normal``.

    Raises:
        ConfigError: The URL is invalid; the message shows a valid one.
    """
    parts = urlsplit(url)
    path = os.fsdecode(unquote_to_bytes(parts.path.removeprefix("/")))
    if parts.netloc or not path or "\0" in path:
        raise ConfigError(f"{url}: write sqlite:///file.db, or sqlite:////folder/file.db")
    synchronous = "full"
    for name, value in parse_qsl(parts.query, keep_blank_values=True):
        if name != "synchronous":
            hint = did_you_mean(name, ["synchronous"])
            raise ConfigError(f"{url}: unknown parameter {name!r}: {hint}")
        if value.lower() not in _SYNCHRONOUS:
            raise ConfigError(f"{url}: synchronous is full or normal, not {value!r}")
        synchronous = value.lower()
    absolute = Path(path).absolute()
    if max(map(len, os.fsencode(absolute).split(b"/"))) > MAX_NAME or len(path) > MAX_PATH:
        raise ConfigError(
            f"{url[:MAX_NAME]}: a name in it is longer than {MAX_NAME} bytes, or the path longer "
            f"than {MAX_PATH:,}: choose a shorter one"
        )
    return SqliteAddress(absolute, synchronous)


def is_absent(url: str) -> bool:
    """Whether the URL names a database file that does not exist; opening it would create it.

    Raises:
        ConfigError: It is an invalid SQLite URL.
    """
    if not url.startswith("sqlite:"):
        return False
    try:
        parse_url(url).path.stat()
    except FileNotFoundError:
        return True
    except OSError:  # Opening it says why.
        return False
    return False

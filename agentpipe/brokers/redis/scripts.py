"""Scripts: the Lua of the Redis store, each operation one file beside this module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

# They end workers whose lease is over. See ``Script.mark``.
_ENDING = ("claim", "take_outbox")


@dataclass(frozen=True, slots=True)
class Script:
    """One script as the server gets it.

    Attributes:
        sha: What the server calls it once it has been loaded.
        ends_workers: It puts back what silent workers held.
    """

    text: str
    sha: str
    ends_workers: bool


def load_scripts(mark: str) -> dict[str, Script]:
    """All scripts, by name.

    Args:
        mark: Names the set of keys. Scripts that end workers bear it, so that a server that
            has restarted lacks them for each set: whoever meets that knows it was away.
    """
    folder = resources.files(__package__)
    prelude = (folder / "prelude.lua").read_text(encoding="utf-8")
    scripts = {}
    for file in folder.iterdir():
        name, _, kind = file.name.rpartition(".")
        if kind == "lua" and name != "prelude":
            scripts[name] = _script(name, file.read_text(encoding="utf-8"), prelude, mark)
    return scripts


def _script(name: str, body: str, prelude: str, mark: str) -> Script:
    flags, _, rest = body.partition("\n")  # The server reads a script's flags in its first line.
    ends_workers = name in _ENDING
    text = f"{flags}\n{prelude}\n{rest}"
    if ends_workers:
        text += f"-- {mark!a}\n"
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    return Script(text, sha, ends_workers)

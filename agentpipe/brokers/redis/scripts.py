"""Scripts: the Lua of the Redis store, each operation one file beside this module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

_NEEDED = ("ending", "rooms", "budgets", "groups", "policies", "settling", "claiming", "loops")
_SHARED = ("prelude", *_NEEDED)
_NEEDS = "-- needs: "
# Of these, the ones that ask for the time whenever they are used.
_TIMED = frozenset(("settling", "claiming"))
# These scripts end lapsed workers; see ``load_scripts``.
_ENDING = ("cancel", "claim", "settle_and_claim", "take_outbox")


@dataclass(frozen=True, slots=True)
class Script:
    """One script as it is sent to the server.

    Attributes:
        sha: What the server calls it once it has been loaded.
        ends_workers: It puts back what silent workers held.
        notes_time: It compares the server's clock with what it showed last.
    """

    text: str
    sha: str
    ends_workers: bool
    notes_time: bool


def load_scripts(mark: str) -> dict[str, Script]:
    """All scripts, by name.

    Args:
        mark: Names the set of keys. Scripts that end workers contain it, so that a server that
            has restarted lacks them for each set: a caller that meets that knows it was away.
    """
    files = {
        file.name.removesuffix(".lua"): file.read_text(encoding="utf-8")
        for file in resources.files(__package__).iterdir()
        if file.name.endswith(".lua")
    }
    shared = {name: files.pop(name) for name in _SHARED}
    return {name: _script(name, body, shared, mark) for name, body in files.items()}


def _script(name: str, body: str, shared: dict[str, str], mark: str) -> Script:
    flags, _, rest = body.partition("\n")  # The server reads a script's flags in its first line.
    text = f"{flags}\n{shared['prelude']}\n"
    first, _, _ = rest.partition("\n")
    names = first.removeprefix(_NEEDS).split() if first.startswith(_NEEDS) else ()
    text += "".join(f"{shared[needed]}\n" for needed in names)
    text += rest
    ends_workers = name in _ENDING
    if ends_workers:
        text += f"-- {mark!a}\n"
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    asks_time = any(call in body for call in ("now()", "wall()"))
    return Script(text, sha, ends_workers, asks_time or not _TIMED.isdisjoint(names))

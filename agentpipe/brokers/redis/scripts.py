"""Scripts: the Lua of the Redis store, each operation one file beside this module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

# Of all scripts, in order, after their keys.
_COMMON = (
    *("modules", "clock", "writes", "requests", "run_counts", "measures"),
    *("queues", "tasks", "waking"),
)
_NEEDED = (
    *("ending", "rooms", "budgets", "groups", "policies", "breaker", "settling"),
    *("ready", "suspects", "parking", "due", "claiming", "loops"),
)
_SHARED = ("keys", *_COMMON, *_NEEDED)
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
    first, _, _ = rest.partition("\n")
    names = first.removeprefix(_NEEDS).split() if first.startswith(_NEEDS) else ()
    parts = "\n".join(shared[part] for part in (*_COMMON, *names))
    # A function inside: what it has of the keys is at hand for all functions in it, each of which
    # would look for them among all variables of the script.
    text = f"{flags}\n{shared['keys']}\nreturn (function()\n{parts}\n{rest}\nend)()\n"
    ends_workers = name in _ENDING
    if ends_workers:
        text += f"-- {mark!a}\n"
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    asks_time = any(call in body for call in ("now()", "wall()"))
    return Script(text, sha, ends_workers, asks_time or not _TIMED.isdisjoint(names))

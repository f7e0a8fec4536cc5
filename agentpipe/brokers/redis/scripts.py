"""Scripts: the Redis store's Lua scripts, one file per operation next to this module."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from importlib import resources

# Parts that every script contains, in this order, after ``keys``.
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
# The parts of ``_NEEDED`` that always read the time.
_TIMED = frozenset(("settling", "claiming"))
# Scripts that end workers whose lease expired; see ``load_scripts``.
_ENDING = ("cancel", "claim", "settle_and_claim", "take_outbox")


@dataclass(frozen=True, slots=True)
class Script:
    """A script as it is sent to the server.

    Attributes:
        sha: Its SHA-1, by which the server knows a loaded script.
        ends_workers: Whether it requeues the tasks of workers whose lease expired.
        notes_time: Whether it records the server's time, to detect clock jumps.
    """

    text: str
    sha: str
    ends_workers: bool
    notes_time: bool


def load_scripts(mark: str) -> dict[str, Script]:
    """Return all scripts by name.

    Args:
        mark: The store's key prefix. Scripts that end workers contain it, so each store has its
            own. If the server lacks one of them, it has restarted since this store loaded it.
    """
    files = {
        file.name.removesuffix(".lua"): file.read_text(encoding="utf-8")
        for file in resources.files(__package__).iterdir()
        if file.name.endswith(".lua")
    }
    shared = {name: files.pop(name) for name in _SHARED}
    return {name: _script(name, body, shared, mark) for name, body in files.items()}


def _script(name: str, body: str, shared: dict[str, str], mark: str) -> Script:
    flags, _, rest = body.partition("\n")  # The server reads a script's flags from line 1.
    first, _, _ = rest.partition("\n")
    names = first.removeprefix(_NEEDS).split() if first.startswith(_NEEDS) else ()
    parts = "\n".join(shared[part] for part in (*_COMMON, *names))
    # The wrapping function captures the keys as upvalues once. Without it, every function would
    # capture them separately from the script's locals, which is slower.
    text = f"{flags}\n{shared['keys']}\nreturn (function()\n{parts}\n{rest}\nend)()\n"
    ends_workers = name in _ENDING
    if ends_workers:
        text += f"-- {mark!a}\n"
    sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
    asks_time = any(call in body for call in ("now()", "wall()"))
    return Script(text, sha, ends_workers, asks_time or not _TIMED.isdisjoint(names))

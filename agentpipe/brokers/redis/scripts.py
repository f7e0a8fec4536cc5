"""Scripts: the Redis store's Lua scripts, one file per operation next to this module."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from importlib import resources
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

# How many ids one call of a script handles: it stops the server for as long. The same as in
# keys.lua: a call that has handled so many can have left some.
PORTION = 500
# Parts that every script contains, in this order, after ``keys``.
_COMMON = (
    *("modules", "clock", "writes", "requests", "run_counts", "measures"),
    *("queues", "tasks", "waking", "pauses"),
)
_NEEDS = "-- needs: "
# Parts that a script can need, and that always read the time.
_TIMED = frozenset(("settling", "claiming", "holding"))
# The server creates all functions of a script again for each call, and captures each local that a
# function uses. So constants are written into the text: locals that hold numbers, and in the most
# frequent scripts the names of keys. Neither a string nor a part of another name is a constant.
_NUMBERS = re.compile(r"^ *local ([A-Z][A-Z_, ]*) = ([\d.e, -]+?)(?: *--.*)?$", re.MULTILINE)
_KEY = re.compile(r"^local ([A-Z][A-Z_]*) = base \.\. '([:\w]+)'(?: *--.*)?$", re.MULTILINE)
_NAME = re.compile(r"(?<![\w'.])[A-Z][A-Z_]*(?![\w'])")
_NOT_LITERAL = re.compile(rb"[^\w{}:.-]")
# Scripts that end workers whose lease expired; see ``Scripts``.
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


class Scripts:
    """The scripts of one store; each is made on first use. Thread-safe.

    Args:
        mark: The store's key prefix. Scripts that end workers contain it, so each store has its
            own. If the server lacks one of them, it has restarted since this store loaded it.
    """

    def __init__(self, mark: str) -> None:
        self._mark = mark
        self._files = {
            file.name.removesuffix(".lua"): file.read_text(encoding="utf-8")
            for file in resources.files(__package__).iterdir()
            if file.name.endswith(".lua")
        }
        self._made: dict[str, Script] = {}

    def __getitem__(self, name: str) -> Script:
        if (script := self._made.get(name)) is None:
            script = self._made[name] = self._make(name)
        return script

    def ending(self) -> list[Script]:
        """Return the scripts that end workers whose lease expired."""
        return [self[name] for name in _ENDING]

    def _make(self, name: str) -> Script:
        body = self._files[name]
        flags, _, rest = body.partition("\n")  # The server reads a script's flags from line 1.
        first, _, _ = rest.partition("\n")
        names = first.removeprefix(_NEEDS).split() if first.startswith(_NEEDS) else ()
        parts = "\n".join(self._files[part] for part in (*_COMMON, *names))
        # The wrapping function captures the keys as upvalues once. Without it, every function would
        # capture them separately from the script's locals, which is slower.
        text = f"{flags}\n{self._files['keys']}\nreturn (function()\n{parts}\n{rest}\nend)()\n"
        ends_workers = name in _ENDING
        if ends_workers:
            text = _with_keys(text, self._mark) + f"-- {self._mark!a}\n"
        text = _with_numbers(text)
        sha = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        asks_time = any(call in body for call in ("now()", "wall()"))
        return Script(text, sha, ends_workers, asks_time or not _TIMED.isdisjoint(names))


def _numbers_in(text: str) -> Iterator[tuple[str, str]]:
    for names, numbers in _NUMBERS.findall(text):
        yield from zip(names.split(", "), numbers.split(", "), strict=True)


def _with_numbers(text: str) -> str:
    """Write numbers in place of the locals that hold them."""
    return _written(_NUMBERS.sub("", text), dict(_numbers_in(text)))


def _with_keys(text: str, base: str) -> str:
    """Write the names of keys in place of the locals that hold them."""
    keys = {name: _literal(base + rest) for name, rest in _KEY.findall(text)}
    return _written(_KEY.sub("", text), keys)


def _written(text: str, values: Mapping[str, str]) -> str:
    return _NAME.sub(lambda found: values.get(found[0], found[0]), text)


def _literal(text: str) -> str:
    """Return a string literal of Lua."""
    escaped = _NOT_LITERAL.sub(lambda found: b"\\%03d" % found[0][0], text.encode())
    return f"'{escaped.decode()}'"

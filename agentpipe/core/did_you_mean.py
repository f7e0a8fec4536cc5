"""Hint: what to write instead of a name that nobody knows."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


def hint(name: object, choices: Iterable[str]) -> str:
    """The nearest of ``choices``, or all of them in their order where none is near."""
    known = list(choices)
    near = difflib.get_close_matches(str(name), known, 1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"


def unknown_keys(config: Iterable[str], known: Iterable[str]) -> list[str]:
    """A sentence for each key of an agent's ``config`` that is none of ``known``."""
    keys = list(known)
    return [
        f"unknown key {str(key)[:40]!r} in config: {hint(key, keys)}"
        for key in config
        if key not in keys
    ]

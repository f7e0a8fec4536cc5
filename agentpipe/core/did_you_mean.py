"""The nearest known name for one that is unknown."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# At this likeness a name is a misspelling, not a name of the user's own.
MISSPELT = 0.8
NO_SIMILAR_NAME = "no similar name"
_FEW = 20


def did_you_mean(name: object, choices: Iterable[str], otherwise: str = "") -> str:
    """The nearest choice as a question.

    Where none is near: ``otherwise``, or all choices if they are few, or that none is similar.
    """
    known = list(choices)
    if near := nearest(name, known):
        return f"did you mean {near!r}?"
    listed = f"choose from {', '.join(known)}" if 0 < len(known) <= _FEW else NO_SIMILAR_NAME
    return otherwise or listed


def nearest(name: object, choices: Iterable[str], likeness: float = 0.6) -> str:
    """The nearest choice; empty where none is as near as ``likeness``."""
    return next(iter(difflib.get_close_matches(str(name), list(choices), 1, likeness)), "")


def unknown(noun: str, name: str, known: Iterable[str], where: str, otherwise: str = "") -> str:
    """``no collection 'toy' in crew.yaml: did you mean 'toys'?``."""
    return f"no {noun} {name!r} {where}: {did_you_mean(name, known, otherwise)}"


def unknown_keys(config: Iterable[str], known: Collection[str]) -> list[str]:
    """A sentence for each key of an agent's ``config`` that ``known`` lacks."""
    return [
        f"unknown key {str(key)[:40]!r} in config: {did_you_mean(key, known)}"
        for key in config
        if key not in known
    ]

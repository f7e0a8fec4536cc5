"""Suggest the nearest known name for an unknown one."""

from __future__ import annotations

import difflib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable

# At this similarity a name is a misspelling, not a name that the user chose.
MISSPELT = 0.8
NO_SIMILAR_NAME = "no similar name"
_FEW = 20


def did_you_mean(name: object, choices: Iterable[str], otherwise: str = "") -> str:
    """Return the nearest choice as a question.

    If none is near, returns ``otherwise``, else all choices if they are few, else a note that no
    name is similar.
    """
    known = list(choices)
    if near := nearest(name, known):
        return f"did you mean {near!r}?"
    listed = f"choose from {', '.join(known)}" if 0 < len(known) <= _FEW else NO_SIMILAR_NAME
    return otherwise or listed


def nearest(name: object, choices: Iterable[str], likeness: float = 0.6) -> str:
    """Return the nearest choice; empty if none is at least this similar."""
    return next(iter(difflib.get_close_matches(str(name), list(choices), 1, likeness)), "")


def unknown(noun: str, name: str, known: Iterable[str], where: str, otherwise: str = "") -> str:
    """Return e.g. ``no collection 'toy' in crew.yaml: did you mean 'toys'?``."""
    return f"no {noun} {name!r} {where}: {did_you_mean(name, known, otherwise)}"


def unknown_keys(config: Iterable[str], known: Collection[str]) -> list[str]:
    """Return one sentence for each key of an agent's ``config`` that is not in ``known``."""
    return [
        f"unknown key {str(key)[:40]!r} in config: {did_you_mean(key, known)}"
        for key in config
        if key not in known
    ]

"""The secrets of this process, in one place: whatever leaves it is masked by them.

A process has one redactor, with the secrets of all its contexts: agents of a worker may see what
belongs to another's. Results, errors, what is printed and logged are masked where they leave, and a
text that is cut is masked before: half a secret cannot be recognised.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterable

_secrets = set[str]()
_redactors = [Redactor(())]


def install(secrets: Iterable[str]) -> Redactor:
    """Mask these from now on, in this process; they replace what was given before."""
    _secrets.clear()
    _secrets.update(secrets)
    _redactors[0] = Redactor(_secrets)
    return _redactors[0]


def add(secrets: Iterable[str]) -> None:
    """Mask these, too."""
    if not _secrets.issuperset(more := set(secrets)):
        install(_secrets | more)


def redactor() -> Redactor:
    """That of this process, until others are installed."""
    return _redactors[0]


def masked(text: str) -> str:
    """``text`` with the secrets of this process masked."""
    return _redactors[0].text(text)


def shorten(text: str, max_chars: int, note: str = "", *, keep_end: bool = False) -> str:
    """``text``, or its masked beginning (or end) where it is longer, with ``note`` behind it."""
    if len(text) <= max_chars:
        return text
    text = masked(text)
    if len(text) <= max_chars:
        return text
    return text[len(text) - max_chars :] if keep_end else f"{text[:max_chars]}{note}"

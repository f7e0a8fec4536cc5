"""The process-wide redactor, which masks this process's secrets in all output.

One redactor holds the secrets of all contexts in the process, because agents of a worker can see
each other's secrets. Results, errors, prints and logs are masked where they leave the process. Text
that is cut is masked before the cut: half a secret cannot be recognized.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.core.redaction import Redactor

if TYPE_CHECKING:
    from collections.abc import Iterable

_secrets = set[str]()
_redactors = [Redactor(())]


def install(secrets: Iterable[str]) -> Redactor:
    """Mask these secrets in this process from now on; they replace earlier ones."""
    _secrets.clear()
    _secrets.update(secrets)
    _redactors[0] = Redactor(_secrets)
    return _redactors[0]


def add(secrets: Iterable[str]) -> None:
    """Mask these secrets in addition to the current ones."""
    if not _secrets.issuperset(more := set(secrets)):
        install(_secrets | more)


def redactor() -> Redactor:
    """Return this process's current redactor."""
    return _redactors[0]


def masked(text: str) -> str:
    """Return ``text`` with this process's secrets masked."""
    return _redactors[0].text(text)


def shorten(text: str, max_chars: int, note: str = "", *, keep_end: bool = False) -> str:
    """Return ``text``; if too long, its masked beginning plus ``note``, or its masked end."""
    if len(text) <= max_chars:
        return text
    text = masked(text)
    if len(text) <= max_chars:
        return text
    return text[len(text) - max_chars :] if keep_end else f"{text[:max_chars]}{note}"

"""Failure digests: equal for failures that differ only in task-specific details."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_CHARS = 2_000
MIN_OWN_CHARS = 4
# In order: quotations can contain the others, and addresses contain numbers.
_VARIABLE = (
    # An apostrophe inside a word is not a quotation mark.
    re.compile(r"(?<!\w)(['\"`])(?:(?!\1(?!\w)).)*\1(?!\w)", re.DOTALL),
    re.compile("\u201c[^\u201d]*\u201d|\u2018[^\u2019]*\u2019|\u00ab[^\u00bb]*\u00bb"),
    re.compile(r"\w+://\S+"),
    re.compile(r"(?<![\w.+%-])[\w.+%-]+@[\w.-]*\w"),
    # Absolute or relative paths, with slashes of either kind.
    re.compile(r"(?<![\w.~@%+/\\-])(?:[A-Za-z]:)?[\w.~@%+-]*(?:[/\\]+[\w.~@%+-]+)+[/\\]?"),
)
_WORD = re.compile(r"[\w.:@-]+")
_PART = re.compile(r"[^\W_]+")
_HEXADECIMAL = re.compile(r"[a-f]{8,}", re.IGNORECASE)
# For example a file name or a host name.
_DOTTED = re.compile(r"\w\.\w")
# An id prefixed with its kind.
_PREFIXED = re.compile(r"[a-z]+[_-][A-Za-z]*[a-z][A-Z][A-Za-z]*")
_STEP_UP = re.compile(r"[a-z][A-Z]")
MIN_ID_CHARS, MIN_PREFIXED_CHARS = 16, 12


def failure_digest(kind: str, message: str, own: Iterable[str] = ()) -> str:
    """Return a digest of the error's type and of its message without variable parts.

    ``own`` are strings of the task, such as its question, which the error can quote.
    """
    for text in filter(_is_telling, own):
        message = message.replace(text, "_")
    content = f"{kind}: {without_variables(message[:MAX_CHARS])}"
    return hashlib.blake2b(content.encode(errors="replace"), digest_size=8).hexdigest()


def _is_telling(text: str) -> bool:
    """Whether the text is too long to occur in a message by chance."""
    return len(text) >= MIN_OWN_CHARS


def without_variables(message: str) -> str:
    """Replace quoted parts, addresses, paths, ids and numbers in the message by ``_``."""
    for pattern in _VARIABLE:
        message = pattern.sub("_", message)
    return " ".join(_WORD.sub(_without_ids, message).split()).casefold()


def _without_ids(word: re.Match[str]) -> str:
    """Replace words with digits (numbers, hashes, most ids), ids of letters, and dotted names."""
    has_digits = any(map(str.isdigit, word[0]))
    is_id = has_digits or _HEXADECIMAL.fullmatch(word[0]) or _is_id_of_letters(word[0])
    return "_" if is_id or _DOTTED.search(word[0]) else word[0]


def _is_id_of_letters(word: str) -> bool:
    bare = word.strip(".:-")
    is_prefixed = len(bare) >= MIN_PREFIXED_CHARS and _PREFIXED.fullmatch(bare)
    return bool(is_prefixed) or any(map(_is_jumbled, _PART.findall(word)))


def _is_jumbled(part: str) -> bool:
    """Whether its case changes more often than in a name such as HTTPSConnectionPool."""
    if len(part) < MIN_ID_CHARS or len(_STEP_UP.findall(part)) < 2:  # noqa: PLR2004 - a name steps up once
        return False
    return 4 * sum(map(str.isupper, part)) >= len(part)

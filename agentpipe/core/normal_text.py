"""Normalized text: only the letters and digits, so that no encoding hides a secret.

JSON escapes of any library (also in nested JSON), percent-encoding, line breaks and separators are
reduced to the characters that they stand for.
"""

from __future__ import annotations

import re
from functools import cache

_HEX = "[0-9A-Fa-f]"
_PLAIN_HEX = "(?:3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])"  # Hex of ASCII letters and digits.
_SYMBOLS = bytes(code for code in range(256) if not (code < 128 and chr(code).isalnum()))  # noqa: PLR2004 - ASCII
_ESCAPE = re.compile(
    rf"\\++(?:u00({_HEX}{{2}})|u{_HEX}{{4}}|U{_HEX}{{8}}|x({_HEX}{{2}})|[nrtbf])|%(?:25)*({_HEX}{{2}})".encode()
)
_LINE_ENDS = tuple(rb"\%c" % letter for letter in b"nrt")
_DECODED = (b"\\u", b"\\U", b"\\x", b"%")
LETTERS_OF_ESCAPES = "nrtbf"
# For example a line break with its indentation.
_MAX_BETWEEN = 32


def as_it_is(data: bytes) -> bytes:
    """Return the letters and digits of ``data``."""
    return data.translate(None, _SYMBOLS)


def decoded(data: bytes) -> bytes:
    """Return the letters and digits of ``data`` after decoding its escapes."""
    if any(mark in data for mark in _DECODED):
        data = _ESCAPE.sub(_meant, data)
    elif b"\\" in data:
        for end in _LINE_ENDS:
            data = data.replace(end, b"")
    return as_it_is(data)


def views(data: bytes) -> list[bytes]:
    """Return ``data`` normalized: raw, decoded, and without the ``0x`` marks of hex bytes."""
    found = [as_it_is(data)]
    if b"\\" in data or b"%" in data:
        found.append(decoded(data))
    if b"0x" in data:
        found.append(as_it_is(data.replace(b"0x", b"")))
    return found


@cache
def _alternatives(code: int, *, marked: bool) -> str:
    mark = "(?:0x)?" if marked else ""
    digits = "".join(f"[{digit}{digit.upper()}]" for digit in f"{code:02x}")
    return rf"{mark}(?:{chr(code)}|\\++(?:u00|x){digits}|%(?:25)*{digits})"


def _between(itself: str = "") -> str:
    """Match a separator between two characters of a secret: anything that encodes neither.

    Args:
        itself: A letter that is not part of an escape even after a backslash, because the secret
            itself contains that backslash.
    """
    letters = f"[{LETTERS_OF_ESCAPES.replace(itself, '') if itself else LETTERS_OF_ESCAPES}]"
    return (
        r"(?:[^A-Za-z0-9\\%]"
        rf"|\\++(?:{letters}|u(?!00{_PLAIN_HEX}){_HEX}{{4}}|U{_HEX}{{8}}|x(?!{_PLAIN_HEX}){_HEX}{{2}}"
        rf"|(?!u{_HEX}{{4}}|U{_HEX}{{8}}|x{_HEX}{{2}}|{letters}))"
        rf"|%(?:25)*(?:(?!{_PLAIN_HEX}){_HEX}{{2}}|(?!{_HEX}{{2}})))"
    )


def pattern_of(
    normal: bytes, around: tuple[int, int], *, marked: bool, behind_backslash: frozenset[int]
) -> re.Pattern[str]:
    """Return a pattern for ``normal`` in any encoding, with up to ``around`` symbols at its ends.

    Runs in linear time: a separator never matches a secret's character, so backtracking finds
    nothing and is limited to ``_MAX_BETWEEN`` symbols per character.

    Args:
        normal: Letters and digits.
        around: Number of symbols before and after them in the whole secret.
        marked: Whether bytes can start with ``0x``.
        behind_backslash: Places of letters that follow a backslash in the secret itself.
    """
    before, behind = around
    whole = ""
    for place, code in enumerate(normal):
        itself = chr(code) if place in behind_backslash else ""
        most = f"{{0,{_MAX_BETWEEN}}}" if place else f"{{0,{before}}}"
        whole += _between(itself) + most if place or before else ""
        whole += _alternatives(code, marked=marked)
    return re.compile(f"{whole}{_between()}{{0,{behind}}}" if behind else whole)


def _meant(escape: re.Match[bytes]) -> bytes:
    digits = escape[1] or escape[2] or escape[3]
    return bytes([int(digits, 16)]) if digits else b""

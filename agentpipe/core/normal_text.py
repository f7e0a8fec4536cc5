"""Normalised text: only its letters and digits, so that no encoding hides a secret.

JSON escapes of any library, also within JSON, percent-encoding, line breaks and separators leave
nothing behind but the characters that they stand for.
"""

from __future__ import annotations

import re
from functools import cache

_HEX = "[0-9A-Fa-f]"
_PLAIN_HEX = "(?:3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])"  # Of letters and digits.
_SYMBOLS = bytes(code for code in range(256) if not (code < 128 and chr(code).isalnum()))  # noqa: PLR2004 - ASCII
_ESCAPE = re.compile(
    rf"\\++(?:u00({_HEX}{{2}})|u{_HEX}{{4}}|U{_HEX}{{8}}|x({_HEX}{{2}})|[nrtbf])|%(?:25)*({_HEX}{{2}})".encode()
)
_LINE_ENDS = tuple(rb"\%c" % letter for letter in b"nrt")
_DECODED = (b"\\u", b"\\U", b"\\x", b"%")
LETTERS_OF_ESCAPES = "nrtbf"
# Such as a line's end with its indentation.
_MAX_BETWEEN = 32


def as_it_is(data: bytes) -> bytes:
    """The letters and digits of ``data``."""
    return data.translate(None, _SYMBOLS)


def decoded(data: bytes) -> bytes:
    """The letters and digits that ``data`` stands for."""
    if any(mark in data for mark in _DECODED):
        data = _ESCAPE.sub(_meant, data)
    elif b"\\" in data:
        for end in _LINE_ENDS:
            data = data.replace(end, b"")
    return as_it_is(data)


def views(data: bytes) -> list[bytes]:
    """``data`` as it is, as it is decoded, and without the marks of hexadecimal bytes."""
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
    """What may be between two characters of a secret: it stands for none.

    Args:
        itself: A letter that is none of an escape, whatever is before it: the secret has it there.
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
    """What stands for ``normal``, with that many symbols around it.

    Linear: what may be between two characters never stands for one, so going back finds nothing,
    and goes at most ``_MAX_BETWEEN`` symbols for each character.

    Args:
        normal: Letters and digits.
        around: How many symbols the whole has before and behind them.
        marked: Whether bytes may begin with ``0x``.
        behind_backslash: The places of letters that follow a backslash in the secret itself.
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

"""The encoded forms of a secret, and an index that finds the forms occurring in a text."""

from __future__ import annotations

import base64
import html
import json
from collections import defaultdict
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote, quote_plus

from agentpipe.core.normal_text import LETTERS_OF_ESCAPES, as_it_is, decoded, pattern_of

if TYPE_CHECKING:
    import re
    from collections.abc import Iterable, Iterator, Sequence

MASK = "***"
# Base64 or hex of a shorter secret would match by chance.
MIN_ENCODED = 6
# A sequence of this many letters and digits rarely occurs by chance, even with separators.
MIN_NORMAL = 12
# Shorter lines of a multi-line secret are not treated as secrets.
MIN_LINE = 8
_LONGEST_PIECE = 8
# So few keys are found faster one by one: a text's blocks are objects, a search is not.
FEW_KEYS = 8


@dataclass(frozen=True)
class Form:
    """One form of a secret.

    Attributes:
        exact: The form as it appears in a text.
        normal: Its letters and digits, which also match with other characters in between. Empty if
            only the exact form matches.
        marked: Whether the form is hexadecimal.
    """

    exact: str
    normal: bytes = b""
    marked: bool = False

    @property
    def key(self) -> bytes:
        """The bytes that a normalized text contains if it contains this form."""
        return self.normal or as_it_is(self.exact.encode(errors="surrogatepass"))

    def masked(self, text: str) -> str:
        """Return ``text`` with this form masked."""
        text = text.replace(self.exact, MASK)
        return self._pattern.sub(MASK, text) if self.normal else text

    @cached_property
    def _pattern(self) -> re.Pattern[str]:
        plain = [
            index for index, each in enumerate(self.exact) if each.isascii() and each.isalnum()
        ]
        around = plain[0], len(self.exact) - 1 - plain[-1]
        # In a text, ``\b`` alone does not show whether it is an escape.
        own = frozenset(
            place
            for place, index in enumerate(plain)
            if self.exact[index] in LETTERS_OF_ESCAPES and self.exact[:index].endswith("\\")
        )
        if len(plain) != len(self.normal):  # The secret's own escapes are decoded.
            own = frozenset()
        return pattern_of(self.normal, around, marked=self.marked, behind_backslash=own)


def forms_of(secret: str) -> set[Form]:
    """Return the forms of a secret, and of each line if it has several."""
    lines = [line.strip() for line in secret.splitlines()]
    parts = {line for line in lines if len(line) >= MIN_LINE and not line.startswith("-----")}
    return {form for part in (secret, *parts) for form in _forms(part)}


def _forms(secret: str) -> Iterator[Form]:
    data = secret.encode(errors="surrogatepass")
    normal = {as_it_is(data), decoded(data)}
    if min(map(len, normal)) >= MIN_NORMAL:
        yield from (Form(secret, each) for each in normal)
    if len(normal) > 1 or min(map(len, normal)) < MIN_NORMAL:
        yield from map(Form, _as_written(secret))
    yield from map(Form, _in_html(secret) - {secret})
    if len(secret) < MIN_ENCODED:
        return
    for whole in {data, *(each.encode(errors="surrogatepass") for each in _in_json(secret))}:
        for text in _in_base64(whole):
            yield _encoded(text)
        for digits in (whole.hex(), whole.hex().upper()):
            yield _encoded(digits, marked=True)


def _encoded(text: str, *, marked: bool = False) -> Form:
    normal = as_it_is(text.encode())
    return Form(text, normal if len(normal) >= MIN_NORMAL else b"", marked)


def _as_written(secret: str) -> set[str]:
    """The secret in a repr, in URLs, in JSON of both escaping styles, and those nested in JSON."""
    data = secret.encode(errors="surrogatepass")
    forms = {secret, repr(secret)[1:-1], repr(data)[2:-1], json.dumps(secret)[1:-1]}
    forms |= {quote(data), quote(data, safe=""), quote_plus(data)}
    return forms.union(*map(_in_json, forms))


def _in_json(text: str) -> set[str]:
    escaped = json.dumps(text)[1:-1]
    return {escaped, json.dumps(text, ensure_ascii=False)[1:-1]}


def _in_html(secret: str) -> set[str]:
    """The secret as common libraries escape it in HTML; they differ in quotation marks."""
    text = html.escape(secret, quote=False)
    return {
        text.replace('"', double).replace("'", single)
        for double in ('"', "&quot;", "&#34;")
        for single in ("'", "&#x27;", "&#39;", "&apos;")
    }


def _in_base64(secret: bytes) -> Iterator[str]:
    """Yield the base64 characters that do not depend on neighbours, for each offset modulo 3."""
    for before in range(3):
        behind = -(before + len(secret)) % 3
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + secret + bytes(behind)).decode()
            # A character holds six bits: skip those that share bits with a neighbour.
            yield text[(0, 2, 3)[before] : len(text) - (0, 2, 3)[behind]]


class FormIndex:
    """Finds the forms that a text contains, in a time nearly independent of their number.

    If a normalized text contains a form of at least ``2 * width - 1`` characters, one aligned block
    of ``width`` characters of the text is a piece of that form. Only these blocks are looked up.
    """

    def __init__(self, forms: Iterable[Form], width: Literal[4, 8]) -> None:
        self._width = width
        table: dict[int, list[Form]] = defaultdict(list)
        by_key: dict[bytes, list[Form]] = defaultdict(list)
        for form in forms:
            by_key[form.key].append(form)
            for start in range(len(form.key) - width + 1):
                table[self._pieces(form.key[start : start + width])[0]].append(form)
        self._table, self._known = dict(table), frozenset(table)
        self._by_key = list(by_key.items())

    def __bool__(self) -> bool:
        """Whether the index has any form."""
        return bool(self._known)

    def found(self, views: Sequence[bytes]) -> set[Form]:
        """Return the forms whose letters and digits occur in one of ``views``."""
        if len(self._by_key) <= FEW_KEYS:
            occurring = [forms for key, forms in self._by_key if any(key in it for it in views)]
            return {form for forms in occurring for form in forms}
        return {
            form
            for view in views
            if not self._known.isdisjoint(self._pieces(view))
            for piece in self._known.intersection(self._pieces(view))
            for form in self._table[piece]
            if form.key in view
        }

    def _pieces(self, view: bytes) -> memoryview:
        whole = len(view) // self._width * self._width
        return memoryview(view)[:whole].cast("Q" if self._width == _LONGEST_PIECE else "I")

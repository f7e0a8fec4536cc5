"""Masks credentials in everything that leaves a worker.

Values of contexts are masked as they are, and as they look in JSON, a repr, a URL, base64 and
hexadecimal. API keys of well-known services are recognised by their form, wherever they come from.
"""

from __future__ import annotations

import base64
import json
import re
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, quote_plus

import orjson

from agentpipe.core.known_keys import KNOWN, KNOWN_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

MASK = "***"
# Shorter values and these words are settings, not secrets: masking each "1" or "true" would
# destroy an answer.
MIN_SECRET = 4
NO_SECRETS = frozenset({"true", "false", "none", "null"})
# The base64 or hexadecimal form of a shorter one occurs by chance.
MIN_ENCODED = 6

_NESTED = "management=http"
_USER = re.compile(r"//[^/@:]*+:")


class Redactor:
    """Masks the given secrets, and keys of known forms."""

    def __init__(self, secrets: Iterable[str]) -> None:
        forms = {form for secret in secrets if is_secret(secret) for form in _forms(secret)}
        self._secrets = sorted(forms, key=len, reverse=True)
        self._in_json = [orjson.dumps(secret)[1:-1] for secret in self._secrets]

    def text(self, text: str) -> str:
        """``text`` with each secret masked, the longest first."""
        for secret in self._secrets:
            text = text.replace(secret, MASK)
        for held, form in KNOWN.items():
            if held in text:
                text = form.sub(MASK, text)
        return text

    def occurs_in(self, encoded: bytes) -> bool:
        """Whether JSON written by orjson contains a secret; cheap, since most of it does not."""
        return any(secret in encoded for secret in self._in_json) or any(
            held in encoded and form.search(encoded) for held, form in KNOWN_BYTES.items()
        )

    def value(self, value: Any) -> Any:
        """A copy of parsed JSON with each secret masked, in keys as well."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name): self.value(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value


def _forms(secret: str) -> set[str]:
    """A secret as it is, in a repr, in JSON of both escaping styles, and those nested in JSON."""
    reprs = {repr(secret)[1:-1], repr(secret.encode())[2:-1]}
    forms = {secret, *reprs, *_in_json(secret), *_encoded(secret)}
    return forms.union(*map(_in_json, forms))


def _in_json(text: str) -> set[str]:
    return {orjson.dumps(text)[1:-1].decode(), json.dumps(text)[1:-1]}


def _encoded(secret: str) -> set[str]:
    """A secret in URLs, base64 and hexadecimal."""
    quoted = {quote(secret), quote(secret, safe=""), quote_plus(secret)}
    if len(secret) < MIN_ENCODED:
        return quoted
    digits = secret.encode().hex()
    return {*quoted, digits, digits.upper(), *_in_base64(secret.encode())}


def _in_base64(secret: bytes) -> Iterator[str]:
    """The characters that do not depend on neighbours, for each offset within three bytes."""
    for before in range(3):
        behind = -(before + len(secret)) % 3
        for encode in (base64.standard_b64encode, base64.urlsafe_b64encode):
            text = encode(bytes(before) + secret + bytes(behind)).decode()
            # A character holds six bits: skip those that share bits with a neighbour.
            yield text[(0, 2, 3)[before] : len(text) - (0, 2, 3)[behind]]


def is_secret(value: str) -> bool:
    """Whether a value of a context is masked; others are settings."""
    return len(value) >= MIN_SECRET and value.lower() not in NO_SECRETS


def without_password(url: str) -> str:
    """``url`` with passwords masked, also in a URL that is one of its parameters."""
    first, *nested = url.split(_NESTED)
    shown = [_without_own_password(first)]
    for part in nested:
        if "%" in part.partition("&")[0]:  # It may have a percent-encoded password.
            return _NESTED.join([*shown, ""]).removesuffix("http") + MASK
        shown.append(_without_own_password(part))
    return _NESTED.join(shown)


def _without_own_password(url: str) -> str:
    found, last = _USER.search(url), url.rfind("@")  # The last: one may be unescaped.
    if found is None or last < found.end():
        return url
    return f"{url[: found.end() - 1]}:{MASK}{url[last:]}"

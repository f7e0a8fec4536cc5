"""Mask credentials in everything that leaves a worker.

Values of contexts are masked verbatim, line by line, and in the encodings listed in
``docs/guarantees.md``. API keys of well-known services are recognized by their format, wherever
they come from.
"""

from __future__ import annotations

import re
from itertools import chain
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from agentpipe.core.credential_names import reads_like_secret
from agentpipe.core.known_keys import HELD, form_of, holds_key, may_hold_key
from agentpipe.core.normal_text import views
from agentpipe.core.secret_forms import MASK, FormIndex, forms_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.core.secret_forms import Form

# Shorter values and these words are settings, not secrets: masking every "1" or "true" would
# destroy an answer.
MIN_SECRET = 4
NO_SECRETS = frozenset({"true", "false", "none", "null"})
# Minimum number of letters and digits for the 8-byte and the 4-byte index.
_LONG, _SHORT = 15, 7
NESTED = "management=http"
# A URL, also as an argument's value: --db=postgres://user:password@host.
_CREDENTIALS = re.compile(
    r"(?:[^\s:/=]*=)?[a-z][a-z0-9+.-]*://(?P<user>[^/@:]*):(?P<rest>.*@.*)",
    re.IGNORECASE | re.DOTALL,
)
# A port and a path, not a password: http://host:8080/path@version.
_PORT = re.compile("[0-9]*/")
# Where a path begins: by the standard, and for clients that only look for a slash.
_PATHS = (re.compile(r"[/?#\s]"), re.compile("/"))
# Also a user with a slash, which should be escaped. That one is bounded: in a long text with many
# slashes, each // is a start.
_USER = re.compile(r"(?<!/)//(?:[^/@:]*+|(?!/)[^@:]{0,256}+):")


class Redactor:
    """Masks the given secrets, and keys of known services."""

    def __init__(self, secrets: Iterable[str]) -> None:
        given = [each for secret in secrets for each in (secret, *_password_in(secret))]
        forms = {form for secret in given if is_secret(secret) for form in forms_of(secret)}
        self._long = FormIndex((each for each in forms if len(each.key) >= _LONG), 8)
        self._short = FormIndex((each for each in forms if _SHORT <= len(each.key) < _LONG), 4)
        self._rest = [(each.exact.encode(errors="surrogatepass"), each) for each in forms]
        self._rest = [pair for pair in self._rest if len(pair[1].key) < _SHORT]

    def text(self, text: str) -> str:
        """Return ``text`` with each secret masked, the longest first."""
        data = text.encode(errors="surrogatepass")
        found = self._found(data)
        for form in sorted(found, key=lambda form: (len(form.exact), form.exact), reverse=True):
            text = form.masked(text)
        return _without_keys(text) if may_hold_key(data) else text

    def occurs_in(self, encoded: bytes) -> bool:
        """Whether JSON written by orjson can contain a secret; fast, since most contains none."""
        return bool(self._found(encoded)) or (may_hold_key(encoded) and holds_key(encoded))

    def value(self, value: Any) -> Any:
        """Copy parsed JSON with each secret masked, also in keys."""
        if isinstance(value, str):
            return self.text(value)
        if isinstance(value, dict):
            return {self.text(name): self.value(item) for name, item in value.items()}
        if isinstance(value, list):
            return [self.value(item) for item in value]
        return value

    def _found(self, data: bytes) -> set[Form]:
        if not (self._long or self._short):
            return {form for exact, form in self._rest if exact in data}
        normal = views(data)
        found = self._long.found(normal) | self._short.found(normal)
        return found.union(form for exact, form in self._rest if exact in data)


def _without_keys(text: str) -> str:
    for held in HELD:
        if held in text:
            text = form_of(held).sub(MASK, text)
    return text


def is_secret(value: str) -> bool:
    """Whether a context's value is masked; other values are settings."""
    return len(value) >= MIN_SECRET and value.lower() not in NO_SECRETS


def passwords_in(value: Any) -> Iterator[str]:
    """The passwords of URLs in parsed JSON; one that is the user's name is not a secret."""
    if isinstance(value, str):
        yield from _password_in(value)
    elif isinstance(value, (dict, list, tuple)):
        items = value.values() if isinstance(value, dict) else value
        yield from chain.from_iterable(map(passwords_in, items))


def _password_in(url: str) -> set[str]:
    found = _CREDENTIALS.match(url)
    if found is None or _PORT.match(found["rest"]):
        return set()
    given = {found["rest"][:end] for end in _ends_of_password(found["rest"])}
    given -= {found["user"], ""}
    return given | set(map(unquote, given))  # As written, and as it is sent.


def _ends_of_password(rest: str) -> set[int]:
    """Where it can end: before a path at the last ``@``, else at the first or the last of all."""
    ends = {path.split(rest, maxsplit=1)[0].rfind("@") for path in _PATHS} - {-1}
    return ends or {rest.index("@"), rest.rindex("@")}


def without_password(url: str) -> str:
    """Return ``url`` with passwords masked, also in a URL nested in its parameters."""
    first, *nested = url.split(NESTED)
    shown = [_without_own_password(first)]
    for part in nested:
        if "%" in part.partition("&")[0]:  # A percent-encoded password is possible.
            return NESTED.join([*shown, ""]).removesuffix("http") + MASK
        shown.append(_without_own_password(part))
    return NESTED.join(shown)


def _without_own_password(url: str) -> str:
    found, last = _USER.search(url), url.rfind("@")  # A password can contain @.
    if found is not None and last >= found.end():
        url = f"{url[: found.end() - 1]}:{MASK}{url[last:]}"
    place, mark, query = url.partition("?")
    return f"{place}{mark}{'&'.join(map(_without_value, query.split('&')))}"


def _without_value(parameter: str) -> str:
    """Mask a parameter named like a credential; no store has such a parameter, but users try."""
    name, mark, value = parameter.partition("=")
    return f"{name}={MASK}" if mark and value and reads_like_secret(name) else parameter

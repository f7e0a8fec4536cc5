"""API keys of well-known services, recognized by their format.

Every pattern runs in linear time, so that hostile text that almost matches cannot stall a worker.
Repetitions are possessive or bounded, and no part of a text is scanned again from each position
before it. A pattern that can fail after its repetition starts only where no character of that
repetition precedes it.
"""

from __future__ import annotations

import re
from collections import defaultdict
from functools import cache

_OF_URLS = "[A-Za-z0-9_-]"
_PEM = "[A-Z ]{0,40}PRIVATE KEY-----"


def _begun(prefix: str, rest: str, not_behind: str = r"\w") -> str:
    """Return a pattern with a literal prefix, which a search finds fast."""
    prefix = re.escape(prefix)
    return f"{prefix}(?<!{not_behind}{prefix}){rest}"


# The common prefix of all keys of a format, and the pattern of the rest.
# Sources: the services' documentation of their key prefixes.
_BEGUN = {
    # At least one digit: hyphenated words have none.
    "sk-": r"(?=[A-Za-z_-]{0,64}+[0-9])[A-Za-z0-9_-]{20,}+",
    **{f"gh{kind}_": r"[A-Za-z0-9]{36,}+" for kind in "pousr"},
    "github_pat_": r"[A-Za-z0-9_]{50,}+",
    "glpat-": rf"{_OF_URLS}{{20,}}+",
    **{f"{kind}IA": r"[A-Z0-9]{16}\b" for kind in ("AK", "AS")},
    "AIza": rf"{_OF_URLS}{{35}}",
    **{f"xox{kind}-": r"[A-Za-z0-9-]{10,}+" for kind in "abeoprs"},
    "xapp-": r"[A-Za-z0-9-]{20,}+",
    "hf_": r"[A-Za-z0-9]{30,}+",
    "gsk_": r"[A-Za-z0-9]{40,}+",
    "xai-": r"[A-Za-z0-9]{40,}+",
    "ntn_": r"[A-Za-z0-9]{40,}+",
    "whsec_": r"[A-Za-z0-9+/]{20,}+",
    "ya29.": rf"{_OF_URLS}{{20,}}+",
    "npm_": r"[A-Za-z0-9]{30,}+",
    "pypi-Ag": rf"{_OF_URLS}{{40,}}+",
    "SK": r"[0-9a-f]{32}\b",
    "lin_api_": r"[A-Za-z0-9]{32,}+",
    **{f"shp{kind}_": r"[A-Fa-f0-9]{32}" for kind in ("at", "ca", "pa", "ss")},
    "r8_": r"[A-Za-z0-9]{30,}+",
    **{f"{kind}-": rf"{_OF_URLS}{{30,}}+" for kind in ("pplx", "nvapi", "tvly")},
    "hooks.slack.com/": r"(?:services|workflows|triggers)/[A-Za-z0-9/_-]{8,}+",
}
# A part that all keys of a format contain, and the pattern of the key.
_KEYS = {
    **{held: _begun(held, rest) for held, rest in _BEGUN.items()},
    "SG.": _begun("SG.", rf"{_OF_URLS}{{16,}}+\.{_OF_URLS}{{16,}}+", _OF_URLS),
    # A JWT: three parts, the first of which is JSON.
    "eyJ": _begun("eyJ", rf"{_OF_URLS}{{8,}}+\.{_OF_URLS}{{2,}}+\.{_OF_URLS}{{16,}}+", _OF_URLS),
    **{f"k_{mode}_": rf"\b[sr]k_{mode}_[A-Za-z0-9]{{10,}}+" for mode in ("live", "test")},
    "_v1_": r"\bdo[opr]_v1_[0-9a-f]{64}",
    # A Telegram bot token.
    ":AA": rf"\b[0-9]{{8,10}}:AA{_OF_URLS}{{33}}",
    "/api/webhooks/": rf"\bdiscord(?:app)?\.com/api/webhooks/[0-9]{{1,20}}+/{_OF_URLS}{{20,}}+",
    # Authorization headers.
    "earer ": r"[Bb]earer (?=[A-Za-z._~+/-]{0,64}+[0-9])[A-Za-z0-9._~+/-]{20,}+={0,2}",
    "Basic ": r"Basic (?=[A-Za-z+/]{0,64}+[0-9])[A-Za-z0-9+/]{16,}+={0,2}",
    # Up to the END line or, if the text was cut, up to the last line of the key.
    "PRIVATE KEY": rf"-----BEGIN {_PEM}(?:[^-]*+(?:-(?!----)[^-]*+)*-----END {_PEM}"
    r"|(?:(?:\s|\\++[nr]){0,10}[A-Za-z0-9+/=]{16,}+)+)",
}
# A text without any of these parts contains no key.
HELD = tuple(_KEYS)

# Rarer in text than letters: searching for one of them skips most of a text fast.
_SIGNS = "_-.:/ABJK"
_ENOUGH = 3


def _sign_of(held: str) -> str:
    return max(_SIGNS, key=held.rfind) if {*held} & {*_SIGNS} else ""


def _by_sign() -> dict[str, list[str]]:
    """Group the parts by the last rare sign in each."""
    found: dict[str, list[str]] = defaultdict(list)
    for held in _KEYS:
        found[_sign_of(held)].append(held)
    return dict(found)


def _one_of(sign: str, parts: list[str]) -> re.Pattern[bytes]:
    split = [(part[: (end := part.rindex(sign) + 1)], part[end:]) for part in parts]
    forms = [f"(?<={re.escape(begin)}){re.escape(rest)}" for begin, rest in split]
    return re.compile(
        f"{re.escape(sign)}{_likely([begin for begin, _ in split])}(?:{'|'.join(forms)})".encode()
    )


def _likely(begins: list[str]) -> str:
    """Match where the last three characters of one of these end; fast, since most signs fail it."""
    if min(map(len, begins)) < _ENOUGH:
        return ""
    ends = dict.fromkeys(re.escape(begin[-_ENOUGH:]) for begin in begins)
    return f"(?<={'|'.join(ends)})"


_PARTS = _by_sign()
# Without a space at its end a word is found faster: spaces are frequent.
_WORDS = tuple((part.strip().encode(), part.encode()) for part in _PARTS.pop("", ()))
_SIGNED = tuple((sign.encode(), _one_of(sign, parts)) for sign, parts in _PARTS.items())


# Patterns are compiled on first use: few processes see keys of every format.


@cache
def form_of(held: str) -> re.Pattern[str]:
    """Return the pattern of keys that contain this part."""
    return re.compile(_KEYS[held], re.DOTALL)


@cache
def _form_in_bytes(held: str) -> re.Pattern[bytes]:
    return re.compile(_KEYS[held].encode(), re.DOTALL)


def holds_key(data: bytes) -> bool:
    """Whether ``data`` contains a key."""
    return any(held.encode() in data and _form_in_bytes(held).search(data) for held in HELD)


def may_hold_key(data: bytes) -> bool:
    """Whether ``data`` contains a part of any key format; faster than trying each pattern."""
    for sign, form in _SIGNED:  # Most signs are rare, and a one-byte search is fast.
        if sign in data and form.search(data):
            return True
    return any(word in data and part in data for word, part in _WORDS)

"""Keys of well-known services, by their form.

Each pattern is linear: a hostile text that almost holds a key must not stop a worker. What repeats
is possessive or bounded, and no part of a text is read again from each place before it.
"""

from __future__ import annotations

import re

_PEM = "[A-Z ]{0,40}PRIVATE KEY-----"
# Each form by a substring that all of its keys contain: searching for that first is cheap.
# Sources: the services' documentation of their keys' prefixes.
_KEYS = {
    # With a digit: words that are joined by hyphens have none.
    "sk-": r"\bsk-(?=[A-Za-z_-]{0,64}+[0-9])[A-Za-z0-9_-]{20,}+",
    **{f"gh{kind}_": rf"\bgh{kind}_[A-Za-z0-9]{{36,}}+" for kind in "pousr"},
    "github_pat_": r"\bgithub_pat_[A-Za-z0-9_]{50,}+",
    "glpat-": r"\bglpat-[A-Za-z0-9_-]{20,}+",
    "AKIA": r"\bAKIA[A-Z0-9]{16}\b",
    "AIza": r"\bAIza[A-Za-z0-9_-]{35}",
    "xox": r"\bxox[abeoprs]-[A-Za-z0-9-]{10,}+",
    "hf_": r"\bhf_[A-Za-z0-9]{30,}+",
    "gsk_": r"\bgsk_[A-Za-z0-9]{40,}+",
    "xai-": r"\bxai-[A-Za-z0-9]{40,}+",
    "ntn_": r"\bntn_[A-Za-z0-9]{40,}+",
    # To its end, or, where a text was cut, as far as its lines go.
    "PRIVATE KEY": rf"-----BEGIN {_PEM}(?:(?:(?!-----).)*+-----END {_PEM}"
    r"|(?:(?:\s|\\+[nr]){0,10}+[A-Za-z0-9+/=]{16,}+)++)",
}
KNOWN = {held: re.compile(form, re.DOTALL) for held, form in _KEYS.items()}
KNOWN_BYTES = {held.encode(): re.compile(form.encode(), re.DOTALL) for held, form in _KEYS.items()}

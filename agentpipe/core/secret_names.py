"""Detect credentials among a context's variables, which a task's templates must not read.

When in doubt, treat a variable as a credential: the collection can make any variable public.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import orjson

from agentpipe.core.credential_names import reads_like_secret

if TYPE_CHECKING:
    from agentpipe.core.redaction import Redactor

# In connection strings and query strings.
_CREDENTIAL_IN_FIELD = re.compile(
    r"(?:^|[;?&\s])(?:password|pwd|accountkey|sharedaccesskey|api_?key|access_?token|token|sig)=[^;&\s]",
    re.IGNORECASE,
)
_PASSWORD_IN_URL = re.compile(r"://[^/?#@\s:]*+:[^/?#@\s]++@")
# Too broad for masking in arbitrary text: a header, a user in a URL, a key without a prefix.
_LIKELY_VALUE = re.compile(
    r"\b(?:Basic|Bearer) \w|-----BEGIN |://[^/?#@\s]{1,200}@|\A[A-Za-z0-9/+]{40}\Z"
)


def is_credential(name: str, value: str) -> bool:
    """Whether a variable is a credential by name, or by value (a known key, a URL's password)."""
    return reads_like_secret(name) or _holds_credential(value)


def holds_password(value: str) -> bool:
    """Whether a value contains a URL with a password."""
    return _PASSWORD_IN_URL.search(value) is not None


def _holds_credential(value: str) -> bool:
    patterns = (_PASSWORD_IN_URL, _CREDENTIAL_IN_FIELD, _LIKELY_VALUE)
    if any(pattern.search(value) for pattern in patterns):
        return True
    try:
        return _forms().occurs_in(orjson.dumps(value))
    except TypeError:  # A lone surrogate.
        return True


@cache
def _forms() -> Redactor:
    from agentpipe.core.redaction import Redactor  # A worker's guard only checks names.

    return Redactor(())

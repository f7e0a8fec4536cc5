"""Tells credentials among a context's variables, which a task's templates must not read.

Rather one too many: the collection can make any variable public.
"""

from __future__ import annotations

import re

import orjson

from agentpipe.core.redaction import Redactor

# The engine `mcpuniverse` gives it to its host, for variables that only exist there.
CREDENTIAL_NAMES = (
    r"TOKEN|SECRET|CREDENTIAL|KEY(?!WORD|BOARD)|PASS(?!ENGER|AGE|IVE)|PWD|PRIVATE|COOKIE|SESSION"
    r"|BEARER|HEADER|JWT|OAUTH|AUTH(?!OR)|AUTHORI[SZ]|WEBHOOK|MNEMONIC|DSN|CONNECTION_?STRING|CERTIFICATE"
    r"|(?<![A-Z])(?:CREDS?|PAT|PSK|OTP|TOTP|PIN|SALT|SAS)(?![A-Z])"
)
_NAME = re.compile(CREDENTIAL_NAMES, re.IGNORECASE)
_PASSWORD_IN_URL = re.compile(r"://[^/?#@\s:]*+:[^/?#@\s]++@")
_FORMS = Redactor(())


def is_credential(name: str, value: str) -> bool:
    """Whether a variable is one by its name, or by its value: a known key, or a URL's password."""
    return reads_like_secret(name) or _holds_credential(value)


def reads_like_secret(name: str) -> bool:
    """Whether a variable is one by its name alone."""
    return _NAME.search(name) is not None


def _holds_credential(value: str) -> bool:
    if _PASSWORD_IN_URL.search(value):
        return True
    try:
        return _FORMS.occurs_in(orjson.dumps(value))
    except TypeError:  # Half a surrogate pair.
        return True

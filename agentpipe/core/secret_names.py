"""Tells credentials among a context's variables, which a task's templates must not read.

Rather one too many: the collection can make any variable public.
"""

from __future__ import annotations

import re
from functools import cache
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from agentpipe.core.redaction import Redactor

# The engine `mcpuniverse` gives it to its host, for variables that only exist there.
CREDENTIAL_NAMES = (
    r"TOKEN|SECRET|CREDENTIAL|KEY(?!WORD|BOARD)|PASS(?!ENGER|AGE|IVE)|PWD|PRIVATE|COOKIE|SESSION"
    r"|BEARER|HEADER|JWT|OAUTH|AUTH(?!OR)|AUTHORI[SZ]|WEBHOOK|MNEMONIC|DSN|CONNECTION_?STRING|CERTIFICATE"
    r"|CREDS|OTPCODE|PINCODE|GITHUBPAT|(?:SEED|RECOVERY)_?PHRASE|WALLET_?SEED|HMAC|SIGNING|SIGNATURE"
    r"|NETRC|(?<![A-Z])(?:CRED|PAT|PSK|OTP|TOTP|PIN|SALT|SAS|PW)(?![A-Z])|(?<=[A-Z])PW(?![A-Z])"
)
_NAME = re.compile(CREDENTIAL_NAMES, re.IGNORECASE)
# In connection strings and query strings.
_CREDENTIAL_IN_FIELD = re.compile(
    r"(?:^|[;?&\s])(?:password|pwd|accountkey|sharedaccesskey|api_?key|access_?token|token|sig)=[^;&\s]",
    re.IGNORECASE,
)
_PASSWORD_IN_URL = re.compile(r"://[^/?#@\s:]*+:[^/?#@\s]++@")


def is_credential(name: str, value: str) -> bool:
    """Whether a variable is one by its name, or by its value: a known key, or a URL's password."""
    return reads_like_secret(name) or _holds_credential(value)


def reads_like_secret(name: str) -> bool:
    """Whether a variable is one by its name alone."""
    return _NAME.search(name) is not None


def holds_password(value: str) -> bool:
    """Whether a value has a URL with a password."""
    return _PASSWORD_IN_URL.search(value) is not None


def _holds_credential(value: str) -> bool:
    if holds_password(value) or _CREDENTIAL_IN_FIELD.search(value):
        return True
    try:
        return _forms().occurs_in(orjson.dumps(value))
    except TypeError:  # Half a surrogate pair.
        return True


@cache
def _forms() -> Redactor:
    from agentpipe.core.redaction import Redactor  # A worker's guard asks for names only.

    return Redactor(())

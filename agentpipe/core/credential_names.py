"""Detect by name which variables and parameters hold credentials."""

from __future__ import annotations

import re

# The `mcpuniverse` engine passes this pattern to its host, for variables that exist only there.
CREDENTIAL_NAMES = (
    r"TOKEN|SECRET|CREDENTIAL|KEY(?!WORD|BOARD)|PASS(?!ENGER|AGE|IVE)|PWD|PRIVATE|COOKIE|SESSION"
    r"|BEARER|HEADER|JWT|OAUTH|AUTH(?!OR)|AUTHORI[SZ]|WEBHOOK|MNEMONIC|DSN|CONNECTION_?STRING|CERTIFICATE"
    r"|CREDS|OTPCODE|PINCODE|GITHUBPAT|(?:SEED|RECOVERY)_?PHRASE|WALLET_?SEED|HMAC|SIGNING|SIGNATURE"
    r"|NETRC|(?<![A-Z])(?:CRED|PAT|PSK|OTP|TOTP|PIN|SALT|SAS|PW)(?![A-Z])|(?<=[A-Z])PW(?![A-Z])"
    r"|MFA|PHRASE|SERVICE_?ACCOUNT"
)
_NAME = re.compile(CREDENTIAL_NAMES, re.IGNORECASE)


def reads_like_secret(name: str) -> bool:
    """Whether a variable's name alone marks it as a credential."""
    return _NAME.search(name) is not None

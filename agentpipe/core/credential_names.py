"""Names of variables and parameters that hold credentials, as far as a name tells."""

from __future__ import annotations

import re

# The engine `mcpuniverse` gives it to its host, for variables that only exist there.
CREDENTIAL_NAMES = (
    r"TOKEN|SECRET|CREDENTIAL|KEY(?!WORD|BOARD)|PASS(?!ENGER|AGE|IVE)|PWD|PRIVATE|COOKIE|SESSION"
    r"|BEARER|HEADER|JWT|OAUTH|AUTH(?!OR)|AUTHORI[SZ]|WEBHOOK|MNEMONIC|DSN|CONNECTION_?STRING|CERTIFICATE"
    r"|CREDS|OTPCODE|PINCODE|GITHUBPAT|(?:SEED|RECOVERY)_?PHRASE|WALLET_?SEED|HMAC|SIGNING|SIGNATURE"
    r"|NETRC|(?<![A-Z])(?:CRED|PAT|PSK|OTP|TOTP|PIN|SALT|SAS|PW)(?![A-Z])|(?<=[A-Z])PW(?![A-Z])"
    r"|MFA|PHRASE|SERVICE_?ACCOUNT"
)
_NAME = re.compile(CREDENTIAL_NAMES, re.IGNORECASE)


def reads_like_secret(name: str) -> bool:
    """Whether a variable is one by its name alone."""
    return _NAME.search(name) is not None

"""Credentials of models as HTTP carries them."""

from __future__ import annotations

from agentpipe.errors import AgentFailed

# For servers that need no key: the SDKs insist on one.
NO_KEY = "none"


def header_value(key: str) -> str:
    """The key, if a header can hold it.

    Raises:
        AgentFailed: It cannot; a file's last line feed is not part of it.
    """
    stripped = key.strip()
    if not (stripped.isascii() and stripped.isprintable()):
        text = "the model's key has characters that no HTTP header can hold: set it again"
        raise AgentFailed(text, kind="ModelAuthenticationError", permanent=True)
    return stripped

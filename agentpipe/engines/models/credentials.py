"""Model credentials as HTTP headers carry them."""

from __future__ import annotations

from agentpipe.errors import AgentFailed

# For servers that need no key, because the SDKs require one.
NO_KEY = "none"


def header_value(key: str) -> str:
    """The key, without whitespace around it, such as the last line feed of a file.

    Raises:
        AgentFailed: A header cannot contain the key.
    """
    stripped = key.strip()
    if not (stripped.isascii() and stripped.isprintable()):
        text = "the model's key has characters that no HTTP header can hold: set it again"
        raise AgentFailed(text, kind="ModelAuthenticationError", permanent=True)
    return stripped

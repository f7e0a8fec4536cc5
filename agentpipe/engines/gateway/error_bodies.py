"""Error bodies of a gateway, in a format that clients of both protocols display."""

from __future__ import annotations

import orjson


def error_body(message: str) -> bytes:
    """Build the JSON body for one error."""
    error = {"message": f"agentpipe: {message}", "type": "invalid_request_error"}
    return orjson.dumps({"type": "error", "error": error})

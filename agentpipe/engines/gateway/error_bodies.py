"""Errors that a gateway gives, in a form that the clients of both protocols show."""

from __future__ import annotations

import orjson


def error_body(message: str) -> bytes:
    """The JSON of one."""
    error = {"message": f"agentpipe: {message}", "type": "invalid_request_error"}
    return orjson.dumps({"type": "error", "error": error})

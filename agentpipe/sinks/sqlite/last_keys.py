"""Last keys: the small fields at the end of an encoded Result, without its large ones."""

from __future__ import annotations

from typing import Any

import orjson


def keys_from(payload: bytes, first: bytes) -> Any:
    """A payload's keys from ``first`` on, such as ``,"run":``; or all, if that is not one of them.

    Parsing the whole Result takes five times as long, and longer with a long trace. None if the
    payload is not JSON.
    """
    at = payload.rfind(first)
    # Invalid if the key occurred elsewhere, since the brackets around it are missing.
    found = _parsed(b"{" + payload[at + 1 :]) if at > 0 else None
    return _parsed(payload) if found is None else found


def _parsed(payload: bytes) -> Any:
    try:
        return orjson.loads(payload)
    except orjson.JSONDecodeError:
        return None

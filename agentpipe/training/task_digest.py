"""Digests of tasks: identify a trainer's prompts by content, independent of ids."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGITS = 12


def digest_of(task: Mapping[str, Any]) -> str:
    """A digest that is the same for equal tasks; used as part of an id.

    Raises:
        TypeError: The task holds a value that JSON cannot represent.
    """
    content = orjson.dumps(task, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return sha256(content).hexdigest()[:_DIGITS]

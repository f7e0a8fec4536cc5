"""Digests of tasks: which of a trainer's prompts are the same, whatever their ids."""

from __future__ import annotations

from hashlib import sha256
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Mapping

_DIGITS = 12


def digest_of(task: Mapping[str, Any]) -> str:
    """The same for equal tasks; part of an id.

    Raises:
        TypeError: It holds what JSON cannot.
    """
    content = orjson.dumps(task, option=orjson.OPT_SORT_KEYS | orjson.OPT_NON_STR_KEYS)
    return sha256(content).hexdigest()[:_DIGITS]

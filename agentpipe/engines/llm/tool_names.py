"""Tool names as models' APIs accept them: at most 64 letters, digits, ``_`` and ``-``.

A name is ``server__tool``, as in MCP-Universe. If two tools would get the same name, both get a
digest of their true names, so each name refers to one tool.
"""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

MAX_CHARS = 64
_FEW_ROUNDS = 3
_INVALID = re.compile(r"[^A-Za-z0-9_-]")


def names_of(tools: Iterable[tuple[str, str]]) -> dict[str, tuple[str, str]]:
    """Map names to tools (pairs of server and tool), independent of their order."""
    tools = list(dict.fromkeys(tools))
    met = {tool for tool in tools if len(_plain(tool)) > MAX_CHARS}
    for round_ in count():  # A digested name can collide with a plain one.
        names = {tool: _digested(tool) if tool in met else _plain(tool) for tool in tools}
        uses = Counter(names.values())
        more = {tool for tool in tools if uses[names[tool]] > 1} - met
        if not more:
            return {name: tool for tool, name in names.items()}
        # A malicious server can choose names so that each round finds one more collision.
        met |= more if round_ < _FEW_ROUNDS else set(tools)
    raise AssertionError


def _plain(tool: tuple[str, str]) -> str:
    return _INVALID.sub("_", "__".join(tool))


def _digested(tool: tuple[str, str]) -> str:
    true_name = "\0".join(tool).encode("utf-8", "surrogatepass")
    digest = hashlib.blake2b(true_name, digest_size=8).hexdigest()
    return f"{_plain(tool)[: MAX_CHARS - len(digest) - 1]}_{digest}"

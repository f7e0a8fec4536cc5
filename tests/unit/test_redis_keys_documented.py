"""The operations manual lists each key and channel that the Redis broker uses, and no other."""

from __future__ import annotations

import re

from agentpipe.brokers.redis.letters import DEAD, UNDELIVERABLE
from tests.documents import ROOT, section

# In scripts `base .. ':tasks'`, in Python `f"{base}:tasks"`.
USED = re.compile(r"base(?: \.\. '|\}):(\w+)")
# `{prefix}:tasks`, or `:tasks` after it in the same cell.
LISTED = re.compile(r"`(?:\{prefix\})?:(\w+)[^`]*`")
# What a script gets as KEYS[2]: a duration, not a key.
NO_KEYS = {"waited"}


def used() -> set[str]:
    folder = ROOT / "agentpipe/brokers/redis"
    sources = [path.read_text() for path in folder.iterdir() if path.suffix in {".lua", ".py"}]
    return {DEAD, UNDELIVERABLE, *USED.findall("\n".join(sources))} - NO_KEYS


def listed() -> set[str]:
    rows = re.findall(r"^\| ([^|]+)", section("docs/operations.md", "Redis"), re.MULTILINE)
    return {name for cell in rows for name in LISTED.findall(cell)}


def test_the_manual_lists_each_key_that_the_broker_uses() -> None:
    assert listed() == used()

"""A scratch store: a separate set of keys in the same database."""

from __future__ import annotations

import re
from contextlib import closing
from functools import partial
from typing import TYPE_CHECKING

from agentpipe.brokers.redis.address import parse_url
from agentpipe.brokers.redis.script_runner import ScriptRunner
from agentpipe.connections.scratch import Scratch, scratch_on
from agentpipe.connections.url import with_parameters

if TYPE_CHECKING:
    from agentpipe.brokers.redis.address import RedisAddress

KEYS_AT_ONCE = 1_000


def scratch_of(url: str, name: str) -> Scratch:
    """Return a scratch store with its own prefix, in the database that ``url`` names."""
    given = parse_url(url)
    own = with_parameters(url, prefix=f"{given.prefix}-{name}")
    remove = partial(_remove, parse_url(own))
    if given.path:
        return Scratch(own, remove, uncut="a socket file has no connections to cut")
    if given.service:
        return Scratch(own, remove, uncut="Sentinels lead past a proxy")
    return scratch_on(own, remove, given.hosts[0], tls=given.tls is not None)


def _remove(address: RedisAddress) -> None:
    with closing(ScriptRunner(address)) as server:
        pattern, cursor = f"{_escaped(server.base)}:*", b"0"
        while True:
            cursor, keys = server.call("SCAN", cursor, "MATCH", pattern, "COUNT", KEYS_AT_ONCE)
            if keys:
                server.call("UNLINK", *keys)
            if cursor == b"0":
                return


def _escaped(text: str) -> str:
    return re.sub(r"([*?\[\]\\])", r"\\\1", text)

"""The KEDA trigger for Redis: scales by the length of the hash of unsettled tasks."""

from __future__ import annotations

import re
from typing import Any

from agentpipe.brokers.redis.address import RedisAddress, parse_url
from agentpipe.connections.url import host_in_url
from agentpipe.errors import ConfigError

USUAL = "redis:6379"
_SERVER = r"(?:\[[0-9a-fA-F:.]+\]|[A-Za-z0-9._-]+):[0-9]{1,5}"
_ADDRESS = re.compile(rf"{_SERVER}(?:,{_SERVER})*")


def trigger_of(url: str, address: str, tasks: int) -> dict[str, Any]:
    """See ``TellsScaler``. With Sentinels, KEDA asks them for the primary."""
    given = parse_url(url)
    if address and not _ADDRESS.fullmatch(address):
        raise ConfigError("--scaler-address of a Redis is HOST:PORT, without a scheme")
    metadata = {
        "listName": f"{{{given.prefix}}}:tasks",
        "listLength": str(tasks),
        "databaseIndex": str(given.db),
        "enableTLS": "true" if given.tls is not None else "false",
    }
    if given.service:
        place = {"addresses": address or _places(given), "sentinelMaster": given.service}
        return {"type": "redis-sentinel", "metadata": {**place, **metadata}}
    return {"type": "redis", "metadata": {"address": address or USUAL, **metadata}}


def _places(given: RedisAddress) -> str:
    return ",".join(f"{host_in_url(host)}:{port}" for host, port in given.hosts)

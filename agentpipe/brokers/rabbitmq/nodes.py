"""Nodes: what RabbitMQ's management API tells of the server."""

from __future__ import annotations

import time
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.rabbitmq.management import ask
from agentpipe.connections.health import Finding, clock_skew, fail, ok, warn
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.address import Address

COLUMNS = "name,mem_alarm,disk_free_alarm,mem_used,mem_limit,disk_free"
NOT_TOLD = "not told by AMQP: give ?management= in the broker's URL to see it"
NOT_ASKED = [ok("alarms", NOT_TOLD), ok("clock", NOT_TOLD)]


def examine_nodes(address: Address) -> list[Finding]:
    """Alarms and the clock; an API that is away is told, and is no reason to fail."""
    begun = time.time()
    try:
        nodes, date = ask(address, f"/api/nodes?columns={COLUMNS}")
    except Unreachable as error:
        return [warn("management API", str(error), "correct ?management=, or leave it out")]
    found = [_alarms(node) for node in nodes]
    return [*found, _clock(date, (begun + time.time()) / 2)] if date else found


def _alarms(node: dict[str, Any]) -> Finding:
    """A node with an alarm takes nothing from any publisher of the cluster."""
    used = f"memory {_mib(node, 'mem_used')} of {_mib(node, 'mem_limit')} MiB"
    found = f"{node['name']}: {used}, disk {_mib(node, 'disk_free')} MiB free"
    on = [word for word in ("mem", "disk_free") if node.get(f"{word}_alarm")]
    if on:
        advice = "free it, or raise vm_memory_high_watermark or lower disk_free_limit"
        return fail("alarms", f"{found}; alarm of {' and '.join(on)}", advice)
    return ok("alarms", f"none; {found}")


def _mib(node: dict[str, Any], name: str) -> str:
    value = node.get(name)
    return f"{value / 1024**2:,.0f}" if isinstance(value, int) else "?"


def _clock(date: str, ours: float) -> Finding:
    # HTTP tells whole seconds, and this server looks at its clock once a second: up to two
    # seconds have passed since.
    return clock_skew(parsedate_to_datetime(date).timestamp() + 1.0 - ours, 1.0)

"""Queues and nodes by RabbitMQ's management API, if the broker's URL names it."""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import orjson

from agentpipe.connections.health import Finding, clock_skew, fail, ok, warn
from agentpipe.core.redaction import without_password
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.address import RabbitAddress

TIMEOUT_S = 10.0
OF_QUEUES = "name,messages,message_bytes"
OF_NODES = "name,mem_alarm,disk_free_alarm,mem_used,mem_limit,disk_free"
NOT_REPORTED = "AMQP does not report it: add ?management= to the broker's URL"


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue: its messages including unacknowledged ones, and their size."""

    messages: int | None = None
    size_bytes: int | None = None


UNKNOWN = QueueFigures()


def queue_figures(address: RabbitAddress) -> dict[str, QueueFigures]:
    """The queues with this fleet's prefix, by name, some seconds old; empty without the API.

    Raises:
        Unreachable: The API does not answer, or refuses the user.
    """
    if not address.management:
        return {}
    vhost = quote(address.server.vhost, safe="")
    return {
        record["name"]: QueueFigures(record.get("messages", 0), record.get("message_bytes", 0))
        for record in _get(address, f"/api/queues/{vhost}?columns={OF_QUEUES}")[0]
        if record["name"].startswith(f"{address.topology.prefix}.")
    }


def examine(address: RabbitAddress) -> list[Finding]:
    """Check alarms and the clock; warns if the API does not answer."""
    if not address.management:
        return [ok("alarms", NOT_REPORTED), ok("clock", NOT_REPORTED)]
    begun = time.time()
    try:
        nodes, date = _get(address, f"/api/nodes?columns={OF_NODES}")
    except Unreachable as error:
        return [warn("management API", str(error), "correct ?management=, or leave it out")]
    found = [_alarms(node) for node in nodes]
    if not date:
        return found
    # HTTP gives whole seconds, and this server reads its clock once a second: the date can be up to
    # two seconds old.
    theirs = parsedate_to_datetime(date).timestamp() + 1.0
    return [*found, clock_skew(theirs - (begun + time.time()) / 2, 1.0)]


def _alarms(node: dict[str, Any]) -> Finding:
    """Check a node; one with an alarm blocks all publishers of the cluster."""
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


def _get(address: RabbitAddress, path: str) -> tuple[Any, str]:
    """The API's answer, and the server's time as an HTTP date."""
    parts = urlsplit(address.management)
    host = parts.netloc.rpartition("@")[2]
    user = unquote(parts.username or address.server.user)
    password = unquote(parts.password or address.server.password)
    request = urllib.request.Request(f"{parts.scheme}://{host}{parts.path.rstrip('/')}{path}")  # noqa: S310 - the user's own URL
    token = b64encode(f"{user}:{password}".encode()).decode()
    request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - the user's own URL
            return orjson.loads(answer.read()), answer.headers.get("Date", "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        shown = without_password(address.management)
        raise Unreachable(
            f"{shown}: the management API does not answer ({reason}): "
            "correct ?management= in the broker's URL, or leave it out"
        ) from error

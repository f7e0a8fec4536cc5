"""Health: what Kafka's brokers tell of themselves and of the topic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kafka.errors import KafkaError

from agentpipe.finding import Finding, ok, round_trip, warn
from agentpipe.sinks.kafka.errors import unreachable
from agentpipe.sinks.kafka.topic import MAX_BYTES, open_admin, record_limit

if TYPE_CHECKING:
    from kafka.admin import KafkaAdminClient

    from agentpipe.sinks.kafka.address import Address


def examine(address: Address) -> list[Finding]:
    """Of the cluster behind an address."""
    with unreachable(address.shown):
        admin = open_admin(address)
        try:
            return _examine(admin, address)
        finally:
            admin.close()


def _examine(admin: KafkaAdminClient, address: Address) -> list[Finding]:
    begun = time.perf_counter()
    cluster = admin.describe_cluster()
    took_s = time.perf_counter() - begun
    brokers = cluster.get("brokers", [])
    server = ok("server", f"Kafka {_version(admin, brokers)}, {len(brokers)} brokers")
    return [server, round_trip(took_s), _topic(admin, address), _size(admin, address)]


def _version(admin: KafkaAdminClient, brokers: list[dict[str, Any]]) -> str:
    try:
        told = admin.get_broker_version_data(brokers[0]["broker_id"])
        return ".".join(map(str, told.broker_version))
    except (KafkaError, LookupError, AttributeError, TypeError):
        return "of no version"  # Not all may ask, and not all tell.


def _topic(admin: KafkaAdminClient, address: Address) -> Finding:
    (told,) = admin.describe_topics([address.topic])
    partitions = told.get("partitions", [])
    if not partitions:
        return warn("topic", f"{address.topic} has no partition", "see the brokers' log")
    copies = min(len(each.get("replica_nodes", ())) for each in partitions)
    in_sync = min(len(each.get("isr_nodes", ())) for each in partitions)
    found = f"{address.topic}: {len(partitions)} partitions, {copies} copies, {in_sync} in sync"
    if in_sync < copies:
        return warn("topic", found, "a broker is behind or away: see their logs")
    return ok("topic", found)


def _size(admin: KafkaAdminClient, address: Address) -> Finding:
    limit = record_limit(admin, address.topic)
    found = f"{limit:,} bytes per record"
    if limit <= MAX_BYTES:
        advice = "traces that are larger are cut: raise the topic's max.message.bytes to keep them"
        return warn("message size", found, advice)
    return ok("message size", found)

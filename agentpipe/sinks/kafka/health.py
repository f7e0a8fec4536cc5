"""Findings on Kafka's brokers and the topic."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from kafka.errors import KafkaError

from agentpipe.connections.health import Finding, fail, ok, round_trip, warn
from agentpipe.core.text import counted
from agentpipe.sinks.kafka.errors import unreachable
from agentpipe.sinks.kafka.topic import LIMIT, MAX_BYTES, configs_of, open_admin

if TYPE_CHECKING:
    from collections.abc import Mapping

    from kafka.admin import KafkaAdminClient

    from agentpipe.sinks.kafka.address import KafkaAddress

KEPT, LEAST = "retention.ms", "min.insync.replicas"
DAY_MS = 86_400_000


def examine(address: KafkaAddress) -> list[Finding]:
    """Check the cluster, the topic and its limits."""
    with unreachable(address.shown):
        admin = open_admin(address)
        try:
            return _examine(admin, address)
        finally:
            admin.close()


def _examine(admin: KafkaAdminClient, address: KafkaAddress) -> list[Finding]:
    brokers = admin.describe_cluster().get("brokers", [])
    begun = time.perf_counter()
    admin.describe_cluster()
    took_s = time.perf_counter() - begun
    server = ok("server", f"Kafka {_version(admin, brokers)}, {counted(len(brokers), 'broker')}")
    configs = configs_of(admin, address.topic, [LIMIT, KEPT, LEAST])
    topic = _topic(admin, address.topic, int(configs.get(LEAST, 1)))
    return [server, round_trip(took_s), topic, _size(address, configs), _kept(configs)]


def _version(admin: KafkaAdminClient, brokers: list[dict[str, Any]]) -> str:
    try:
        data = admin.get_broker_version_data(brokers[0]["broker_id"])
        return ".".join(map(str, data.broker_version))
    except (KafkaError, LookupError, AttributeError, TypeError):
        return "of unknown version"  # The user may lack the permission to ask.


def _topic(admin: KafkaAdminClient, topic: str, least: int) -> Finding:
    (description,) = admin.describe_topics([topic])
    partitions = description.get("partitions", [])
    if not partitions:
        return warn("topic", f"{topic} has no partition", "see the brokers' log")
    copies = min(len(each.get("replica_nodes", ())) for each in partitions)
    in_sync = min(len(each.get("isr_nodes", ())) for each in partitions)
    parts = f"{counted(len(partitions), 'partition')}, {copies} of each"
    found = f"{topic}: {parts}, {in_sync} in sync"
    if in_sync < least:
        advice = "start the missing brokers: results wait in the outbox until then"
        return fail("topic", f"{found}, and min.insync.replicas is {least}", advice)
    if in_sync < copies:
        return warn("topic", found, "a broker is behind or down: see their logs")
    return ok("topic", found)


def _size(address: KafkaAddress, configs: Mapping[str, str]) -> Finding:
    if LIMIT not in configs:
        advice = f"allow the user to read the topic's configs; {MAX_BYTES:,} bytes are assumed"
        return warn("message size", "unknown: not allowed to read it", advice)
    limit = int(configs[LIMIT])
    if address.max_bytes and address.max_bytes > limit:
        found = f"max_bytes={address.max_bytes:,} in the URL exceeds the topic's {limit:,}"
        return fail("message size", found, f"lower it, or raise the topic's {LIMIT}")
    found = f"{address.max_bytes or limit:,} bytes per record"
    if (address.max_bytes or limit) <= MAX_BYTES:
        advice = (
            "longer traces are cut; to keep them: kafka-configs.sh --bootstrap-server "
            f"{address.servers[0]} --alter --topic {address.topic} --add-config {LIMIT}=16777216"
        )
        return warn("message size", found, advice)
    return ok("message size", found)


def _kept(configs: Mapping[str, str]) -> Finding:
    """Report the retention without a grade: it is the user's choice, and easily forgotten."""
    kept_ms = int(configs.get(KEPT, -1))
    if KEPT not in configs:
        return ok("retention", "unknown: not allowed to read it")
    return ok("retention", f"{kept_ms / DAY_MS:g} days" if kept_ms >= 0 else "for ever")

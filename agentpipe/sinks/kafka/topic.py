"""Topic: made where it is missing, so that nobody waits for it; and how much a record may hold."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

from kafka import errors as kafka
from kafka.admin import ConfigResource, KafkaAdminClient

from agentpipe.errors import Unreachable
from agentpipe.sinks.kafka.errors import quiet, unreachable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.sinks.kafka.address import KafkaAddress

KNOCK_S = 3.0
CONNECT_MS = 5_000
ANSWER_MS = 10_000
LIMIT = "max.message.bytes"
# Kafka's own default, where the topic cannot be asked.
MAX_BYTES = 1_048_588
# What a record has around its value: key, headers, the batch's own.
OVERHEAD_BYTES = 1_024


def prepare(address: KafkaAddress) -> int:
    """Make the topic if it is missing; how many bytes a record's value may have.

    Raises:
        Unreachable: No broker answers, or it refuses us.
    """
    quiet()
    with unreachable(address.shown):
        _knock(address.servers)
        admin = open_admin(address)
        try:
            _make(admin, address)
            return address.max_bytes or record_limit(admin, address.topic) - OVERHEAD_BYTES
        finally:
            admin.close()


def open_admin(address: KafkaAddress) -> KafkaAdminClient:
    """A client of the brokers, for the caller to close."""
    try:
        return KafkaAdminClient(
            **address.client, bootstrap_timeout_ms=CONNECT_MS, request_timeout_ms=ANSWER_MS
        )
    except kafka.KafkaTimeoutError as error:  # All that the client says, whatever the reason.
        hint = (
            "correct user and password, or ?sasl=" if address.has_login else "does it want a user"
        )
        raise Unreachable(
            f"{address.shown}: what listens there does not let us in: {hint}, or ?tls=yes, "
            "or is another server's port?"
        ) from error


def _knock(servers: Sequence[str]) -> None:
    """Whether anything listens: the client tries for seconds, and leaves its sockets open."""
    for number, server in enumerate(servers, 1):
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), KNOCK_S).close()
        except OSError:
            if number == len(servers):
                raise
        else:
            return


def _make(admin: KafkaAdminClient, address: KafkaAddress) -> None:
    if address.topic in admin.list_topics():
        return
    options = {"num_partitions": address.partitions, "replication_factor": address.replication}
    try:
        admin.create_topics({address.topic: options}, wait_for_metadata=True)
    except kafka.TopicAlreadyExistsError:
        admin.wait_for_topics([address.topic])


def record_limit(admin: KafkaAdminClient, topic: str) -> int:
    """How many bytes a record of the topic may have."""
    try:
        return int(configs_of(admin, topic, [LIMIT])[LIMIT])
    except (KeyError, ValueError):
        return MAX_BYTES


def configs_of(admin: KafkaAdminClient, topic: str, names: list[str]) -> dict[str, str]:
    """What is set for a topic; nothing where we may not ask."""
    try:
        found = admin.describe_configs([ConfigResource("TOPIC", topic, names)], config_filter="all")
        return {name: str(told["value"]) for name, told in found["topic"][topic].items()}
    except (kafka.KafkaError, KeyError):
        return {}

"""The topic: created if it is missing, and the size limit of its records."""

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

PORT_CHECK_S = 3.0
CONNECT_MS = 5_000
ANSWER_MS = 10_000
LIMIT = "max.message.bytes"
# Kafka's default, used if the topic's configs cannot be read.
MAX_BYTES = 1_048_588
# Reserved around a record's value: key, headers, the batch's header.
OVERHEAD_BYTES = 1_024


def prepare(address: KafkaAddress) -> int:
    """Create the topic if it is missing; returns the size limit of a record's value in bytes.

    Raises:
        Unreachable: No broker answers, or it refuses the user.
    """
    quiet()
    with unreachable(address.shown):
        _check_ports([address.proxy.partition("://")[2]] if address.proxy else address.servers)
        admin = open_admin(address)
        try:
            _create(admin, address)
            return address.max_bytes or record_limit(admin, address.topic) - OVERHEAD_BYTES
        finally:
            admin.close()


def open_admin(address: KafkaAddress) -> KafkaAdminClient:
    """An admin client; the caller closes it."""
    try:
        return KafkaAdminClient(
            **address.client, bootstrap_timeout_ms=CONNECT_MS, request_timeout_ms=ANSWER_MS
        )
    except kafka.KafkaTimeoutError as error:  # The client raises only this, whatever the reason.
        hint = (
            "correct user and password, or ?sasl="
            if address.has_login
            else "add a user and password"
        )
        raise Unreachable(
            f"{address.shown}: the server there does not accept us: {hint}, or add ?tls=yes, or "
            "correct the port"
        ) from error


def _check_ports(servers: Sequence[str]) -> None:
    """Fail fast if no port is open: the client would retry for seconds and leak sockets."""
    for number, server in enumerate(servers, 1):
        host, _, port = server.rpartition(":")
        try:
            socket.create_connection((host.strip("[]"), int(port)), PORT_CHECK_S).close()
        except OSError:
            if number == len(servers):
                raise
        else:
            return


def _create(admin: KafkaAdminClient, address: KafkaAddress) -> None:
    if address.topic in admin.list_topics():
        return
    options = {"num_partitions": address.partitions, "replication_factor": address.replication}
    try:
        admin.create_topics({address.topic: options}, wait_for_metadata=True)
    except kafka.TopicAlreadyExistsError:
        admin.wait_for_topics([address.topic])


def record_limit(admin: KafkaAdminClient, topic: str) -> int:
    """The topic's size limit of a record, in bytes."""
    try:
        return int(configs_of(admin, topic, [LIMIT])[LIMIT])
    except (KeyError, ValueError):
        return MAX_BYTES


def configs_of(admin: KafkaAdminClient, topic: str, names: list[str]) -> dict[str, str]:
    """The topic's configs; empty if the user may not read them."""
    try:
        found = admin.describe_configs([ConfigResource("TOPIC", topic, names)], config_filter="all")
        return {name: str(config["value"]) for name, config in found["topic"][topic].items()}
    except (kafka.KafkaError, KeyError):
        return {}

"""A scratch topic beside a sink's own."""

from __future__ import annotations

from contextlib import closing, suppress
from functools import partial
from urllib.parse import quote

from kafka import errors as kafka

from agentpipe.connections.scratch import Detour, Scratch
from agentpipe.connections.url import split_url, with_parameters
from agentpipe.sinks.kafka.address import KafkaAddress
from agentpipe.sinks.kafka.errors import unreachable
from agentpipe.sinks.kafka.topic import open_admin


def scratch_of(url: str, name: str) -> Scratch:
    """A separate topic on the same brokers."""
    given = KafkaAddress.parse(url)
    own = _with_topic(url, f"{given.topic}-{name}")
    remove = partial(_remove, KafkaAddress.parse(own))
    if given.proxy:
        return Scratch(own, remove, uncut="its connections go through a proxy already")
    detour = Detour(partial(_brokers, given), partial(_through, own), by_name=True)
    return Scratch(own, remove, detour)


def _with_topic(url: str, topic: str) -> str:
    place, mark, query = url.partition("?")
    base = place[: len(place) - len(split_url(url).path)]
    return f"{base}/{quote(topic, safe='')}{mark}{query}"


def _through(url: str, port: int) -> str:
    return with_parameters(url, proxy=f"socks5h://127.0.0.1:{port}")


def _brokers(address: KafkaAddress) -> tuple[tuple[str, int], ...]:
    """The brokers in the URL, and those that the cluster reports to its clients."""
    given = [server.rpartition(":") for server in address.servers]
    found = [(host.strip("[]"), int(port)) for host, _, port in given]
    with unreachable(address.shown), closing(open_admin(address)) as admin:
        nodes = admin.describe_cluster()["brokers"]
        return (*found, *((str(node["host"]), int(node["port"])) for node in nodes))


def _remove(address: KafkaAddress) -> None:
    gone = suppress(kafka.UnknownTopicOrPartitionError)
    with unreachable(address.shown), closing(open_admin(address)) as admin, gone:
        admin.delete_topics([address.topic])

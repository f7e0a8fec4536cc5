"""Environment: the servers that our variables and MCP-Universe's variables name.

MCP-Universe has a host, a port and a topic where agentpipe has a URL: ``REDIS_HOST`` and
``REDIS_PORT`` are the broker, ``KAFKA_*`` or ``RABBITMQ_*`` the sink, ``MQ_TOPIC`` its topic.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, unquote

from agentpipe.connections.url import host_in_url, split_url
from agentpipe.core.redaction import without_password
from agentpipe.errors import Problem

if TYPE_CHECKING:
    from collections.abc import Mapping

TOPIC = "agent-task-mq"
# The group of MCP-Universe's consumers. It reads the queue named after the topic, if it exists.
PEER_GROUP = "mcpuniverse-group"
URL_VARIABLES = {"broker": "AGENTPIPE_BROKER", "sink": "AGENTPIPE_SINK"}


@dataclass(frozen=True, slots=True)
class _PeerServer:
    """A server as MCP-Universe's variables name it."""

    scheme: str
    prefix: str
    port: int
    path: str

    @property
    def variables(self) -> tuple[str, str]:
        return f"{self.prefix}_HOST", f"{self.prefix}_PORT"

    def is_named(self, environ: Mapping[str, str]) -> bool:
        return any(environ.get(name) for name in self.variables)

    def url(self, environ: Mapping[str, str]) -> str:
        """Build the server's URL.

        Raises:
            ValueError: The port is invalid.
        """
        host_variable, port_variable = self.variables
        host = environ.get(host_variable) or "localhost"
        text = environ.get(port_variable) or str(self.port)
        if not text.isdecimal() or not 0 < int(text) < 65_536:  # noqa: PLR2004 - TCP ports
            # Kubernetes sets REDIS_PORT=tcp://... for a service named "redis".
            hint = "; set enableServiceLinks: false" if text.startswith("tcp://") else ""
            raise ValueError(f"{port_variable}: expected a port, got {text[:40]!r}{hint}")
        host = host_in_url(host)
        topic = quote(environ.get("MQ_TOPIC") or TOPIC, safe="")
        return f"{self.scheme}://{host}:{int(text)}{self.path.format(topic=topic)}"


_REDIS = _PeerServer("redis", "REDIS", 6379, "/0")
_QUEUES = {
    "kafka": _PeerServer("kafka", "KAFKA", 9092, "/{topic}"),
    "rabbitmq": _PeerServer("amqp", "RABBITMQ", 5672, "/?topic={topic}"),
}
_SERVERS = (_REDIS, *_QUEUES.values())
# The default comes first.
MQ_TYPES = tuple(_QUEUES)
PEER_SINK_VARIABLES = (*(name for each in _QUEUES.values() for name in each.variables), "MQ_TOPIC")
PEER_VARIABLES = (*_REDIS.variables, *PEER_SINK_VARIABLES)


def server_urls(
    environ: Mapping[str, str], mq_type: str | None = None
) -> tuple[dict[str, str], list[Problem]]:
    """The broker and sink URLs that the environment names, and the problems found.

    Args:
        environ: An empty value counts as unset.
        mq_type: ``kafka`` or ``rabbitmq``: the sink to use.
    """
    urls, problems = _peer_urls(environ, mq_type)
    for name, variable in URL_VARIABLES.items():
        if ours := environ.get(variable):
            problems += _clash(variable, ours, urls.get(name), environ)
            urls[name] = ours
    return urls, problems


def names_a_queue(environ: Mapping[str, str]) -> bool:
    """Whether MCP-Universe's variables name a sink."""
    return any(environ.get(name) for name in PEER_SINK_VARIABLES)


def unknown_mq_type(mq_type: str) -> str:
    """The error message for a type that is not in ``MQ_TYPES``."""
    return f"unknown mq_type {mq_type[:40]!r}: use {' or '.join(MQ_TYPES)}"


def _peer_urls(
    environ: Mapping[str, str], mq_type: str | None
) -> tuple[dict[str, str], list[Problem]]:
    urls: dict[str, str] = {}
    problems = []
    try:
        if _REDIS.is_named(environ):
            urls["broker"] = _REDIS.url(environ)
        if server := _queue(environ, mq_type):
            urls["sink"] = server.url(environ)
    except ValueError as error:
        problems.append(Problem(str(error)))
    return urls, problems


def _queue(environ: Mapping[str, str], mq_type: str | None) -> _PeerServer | None:
    if mq_type is not None:
        if mq_type not in _QUEUES:
            raise ValueError(unknown_mq_type(mq_type))
        return _QUEUES[mq_type]
    ours = environ.get(URL_VARIABLES["sink"], "")
    named = [server for server in _QUEUES.values() if server.is_named(environ)]
    if ours:  # Our URL decides between two peers.
        named = [server for server in named if ours.startswith(server.scheme)] or named
    elif len(named) > 1:
        raise ValueError(
            "KAFKA_HOST and RABBITMQ_HOST are both set, and one of them takes the results: "
            "choose with --mq-type or AGENTPIPE_SINK, or unset one"
        )
    elif not named and environ.get("MQ_TOPIC"):
        return _QUEUES["kafka"]  # MCP-Universe's default.
    return named[0] if named else None


def _clash(
    variable: str, ours: str, named: str | None, environ: Mapping[str, str]
) -> list[Problem]:
    """Our URL and MCP-Universe's variables must name the same server and topic."""
    is_broker = variable == URL_VARIABLES["broker"]
    topic = None if is_broker else environ.get("MQ_TOPIC")
    if topic and topic != _topic(ours):
        shown = without_password(ours)
        return [Problem(f"MQ_TOPIC is {topic!r}, but {variable} {shown} does not name it")]
    if named is None or _place(ours) == _place(named):
        return []
    theirs = _REDIS.variables if is_broker else PEER_SINK_VARIABLES
    mine = [name for name in theirs if environ.get(name)]
    return [
        Problem(
            f"{variable} is {without_password(ours)}, and {' and '.join(mine) or 'the mq type'} "
            f"name {named}: unset one of them"
        )
    ]


def _topic(url: str) -> str:
    """The topic of a sink's URL."""
    parts = split_url(url)
    if parts.scheme.startswith("kafka"):
        return unquote(parts.path[1:]) or TOPIC
    return dict(parse_qsl(parts.query)).get("topic", TOPIC)


def _place(url: str) -> tuple[str, str]:
    """The kind of server, and its host with the port: equal for all URLs of one server."""
    scheme, _, rest = url.partition("://")
    hosts = re.split(r"[/?]", rest, maxsplit=1)[0].rpartition("@")[2]
    ports = {server.scheme: server.port for server in _SERVERS}
    plain = {"rediss": "redis", "amqps": "amqp"}.get(scheme, scheme)
    if hosts and not re.search(r":\d+$", hosts):
        hosts = f"{hosts}:{ports.get(plain, 0)}"
    return plain, hosts.replace("127.0.0.1", "localhost")

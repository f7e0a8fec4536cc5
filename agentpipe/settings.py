"""Settings: one frozen object, read once from the environment at the edge of the program."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.parse import parse_qsl, quote, unquote, urlsplit

from agentpipe.core.redaction import without_password
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HOME = ".agentpipe"
DAY_S = 86_400.0
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMATS = ("text", "json")
TOPIC = "agent-task-mq"
# Whose MCP-Universe's consumers are; it reads the queue of the topic's name where there is one.
SEED_GROUP = "mcpuniverse-group"
MQ_TYPES = ("kafka", "rabbitmq")


def embedded_url(name: str) -> str:
    """The URL of an embedded store below the current folder."""
    return f"sqlite:///{quote(str(Path.cwd() / HOME / name))}"


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """At either of these the outbox keeps workers from claiming."""

    records: int
    size_bytes: int

    def reached_by(self, records: int, size_bytes: int) -> bool:
        """Whether an outbox of this size is at one of them."""
        return records >= self.records or size_bytes >= self.size_bytes


@dataclass(frozen=True, slots=True)
class Settings:
    """What the environment says.

    Attributes:
        broker: URL of the store that holds tasks and the outbox.
        sink: URL of the stream that results go to.
        collection_file: The collection to work with, where one is named.
        lease_s: A worker that is silent for longer is dead and its tasks run elsewhere.
        grace_s: How long a stopping worker lets its runs finish.
        outbox_high_water: Above so many undelivered results workers claim nothing.
        outbox_high_water_bytes: The same, by size.
        retention_s: How long the id of a settled task is remembered.
        retry_delay_s: Pause before the first retry; it doubles with each further one.
        max_queue_size: Of collections that do not say.
        slots: Runs at once in one worker process; 0 means as many as its agents may have.
        supervisor_pid: The process that started this worker and ends with it; 0 for none.
    """

    broker: str = field(default_factory=lambda: embedded_url("broker.db"))
    sink: str = field(default_factory=lambda: embedded_url("results.db"))
    collection_file: Path | None = None
    lease_s: float = 30.0
    grace_s: float = 30.0
    outbox_high_water: int = 10_000
    outbox_high_water_bytes: int = 256 * 1024 * 1024
    retention_s: float = 7 * DAY_S
    retry_delay_s: float = 1.0
    max_queue_size: int = 100
    slots: int = 0
    log_level: str = "INFO"
    log_format: str = "text"
    supervisor_pid: int = 0

    @property
    def outbox_limits(self) -> OutboxLimits:
        """Where the outbox has workers wait."""
        return OutboxLimits(self.outbox_high_water, self.outbox_high_water_bytes)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], mq_type: str | None = None) -> Settings:
        """Read ``environ``; an empty value counts as unset.

        MCP-Universe's variables name servers as well: ``REDIS_HOST`` the broker, ``KAFKA_HOST``
        or ``RABBITMQ_HOST`` the sink. ``mq_type`` (``kafka`` or ``rabbitmq``) chooses between
        those two.

        Raises:
            ConfigError: With one problem for each variable that cannot be read, and for each
                two that name different servers.
        """
        values, problems = _seed_urls(environ, mq_type)
        for variable, (name, parse) in _VARIABLES.items():
            if text := environ.get(variable, ""):
                try:
                    parse(text)
                except ValueError as error:
                    problems.append(Problem(f"{variable}: {error}"))
                    continue
                problems += _clash(variable, text, values.get(name), environ)
                values[name] = parse(text)
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    def with_urls(self, broker: str | None, sink: str | None) -> Self:
        """Itself with the given URLs in place of its own."""
        return replace(self, broker=broker or self.broker, sink=sink or self.sink)


@dataclass(frozen=True, slots=True)
class _Server:
    """A server as MCP-Universe's variables name it."""

    scheme: str
    variables: str
    port: int
    path: str = ""

    def is_named(self, environ: Mapping[str, str]) -> bool:
        return any(environ.get(f"{self.variables}_{part}") for part in ("HOST", "PORT"))

    def url(self, environ: Mapping[str, str]) -> str:
        """Its URL.

        Raises:
            ValueError: Naming the variable that is no port.
        """
        host = environ.get(f"{self.variables}_HOST") or "localhost"
        text = environ.get(f"{self.variables}_PORT") or str(self.port)
        if not text.isdecimal() or not 0 < int(text) < 65_536:  # noqa: PLR2004 - TCP's ports
            # Kubernetes sets REDIS_PORT=tcp://... for a service of that name.
            hint = "; set enableServiceLinks: false" if text.startswith("tcp://") else ""
            raise ValueError(f"{self.variables}_PORT: expected a port, got {text[:40]!r}{hint}")
        host = f"[{host}]" if ":" in host and "[" not in host else host
        topic = quote(environ.get("MQ_TOPIC") or TOPIC, safe="")
        return f"{self.scheme}://{host}:{int(text)}{self.path.format(topic=topic)}"


_REDIS = _Server("redis", "REDIS", 6379, "/0")
_QUEUES = {
    "kafka": _Server("kafka", "KAFKA", 9092, "/{topic}"),
    "rabbitmq": _Server("amqp", "RABBITMQ", 5672, "/?topic={topic}"),
}


def _seed_urls(
    environ: Mapping[str, str], mq_type: str | None
) -> tuple[dict[str, Any], list[Problem]]:
    """Broker and sink as MCP-Universe's variables name them, where they name any."""
    urls: dict[str, Any] = {}
    problems = []
    try:
        if _REDIS.is_named(environ):
            urls["broker"] = _REDIS.url(environ)
        if server := _queue(environ, mq_type):
            urls["sink"] = server.url(environ)
    except ValueError as error:
        problems.append(Problem(str(error)))
    return urls, problems


def _queue(environ: Mapping[str, str], mq_type: str | None) -> _Server | None:
    if mq_type is not None:
        try:
            return _QUEUES[mq_type]
        except KeyError:
            raise ValueError(
                f"mq_type is one of {', '.join(MQ_TYPES)}, not {mq_type[:40]!r}"
            ) from None
    ours = environ.get("AGENTPIPE_SINK", "")
    named = [server for server in _QUEUES.values() if server.is_named(environ)]
    if ours:  # Of two it chooses one.
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
    """A URL of ours and MCP-Universe's variables beside it have to mean the same server."""
    topic = environ.get("MQ_TOPIC") if variable == "AGENTPIPE_SINK" else None
    if topic and topic != _topic(ours):
        shown = without_password(ours)
        return [Problem(f"MQ_TOPIC is {topic!r}, and {variable} {shown} does not say that topic")]
    if named is None or _place(ours) == _place(named):
        return []
    known = (f"{server.variables}_{part}" for server in _SERVERS for part in ("HOST", "PORT"))
    beside = [name for name in (*known, "MQ_TOPIC") if environ.get(name)]
    is_broker = variable == "AGENTPIPE_BROKER"
    mine = [name for name in beside if name.startswith("REDIS") == is_broker]
    return [
        Problem(
            f"{variable} is {without_password(ours)}, and {' and '.join(mine) or 'the mq type'} "
            f"name {named}: unset one of them"
        )
    ]


_SERVERS = (_REDIS, *_QUEUES.values())


def _topic(url: str) -> str:
    """Which topic a sink's URL names."""
    parts = urlsplit(url)
    if parts.scheme.startswith("kafka"):
        return unquote(parts.path[1:]) or TOPIC
    return dict(parse_qsl(parts.query)).get("topic", TOPIC)


def _place(url: str) -> tuple[str, str]:
    """What two URLs of one server have in common: its kind and its host with the port."""
    scheme, _, rest = url.partition("://")
    hosts = re.split(r"[/?]", rest, maxsplit=1)[0].rpartition("@")[2]
    ports = {server.scheme: server.port for server in _SERVERS}
    plain = {"rediss": "redis", "amqps": "amqp"}.get(scheme, scheme)
    if hosts and not re.search(r":\d+$", hosts):
        hosts = f"{hosts}:{ports.get(plain, 0)}"
    return plain, hosts.replace("127.0.0.1", "localhost")


def _number(kind: Callable[[str], float], low: float, unit: str) -> Callable[[str], Any]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise ValueError(f"expected {unit}, at least {low:g}; got {text[:40]!r}")
        return value

    return parse


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        for choice in choices:
            if choice.lower() == text.lower():
                return choice
        raise ValueError(f"expected one of {', '.join(choices)}; got {text[:40]!r}")

    return parse


# MCP-Universe's own; `Settings.from_env` says what they mean.
SEED_VARIABLES = (
    *(f"{server.variables}_{part}" for server in _SERVERS for part in ("HOST", "PORT")),
    "MQ_TOPIC",
)

_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "AGENTPIPE_BROKER": ("broker", str),
    "AGENTPIPE_SINK": ("sink", str),
    "AGENT_COLLECTION_CONFIG_FILE": ("collection_file", Path),
    "AGENTPIPE_LEASE_S": ("lease_s", _number(float, 0.5, "seconds")),
    "AGENTPIPE_GRACE_S": ("grace_s", _number(float, 0, "seconds")),
    "AGENTPIPE_OUTBOX_HIGH_WATER": ("outbox_high_water", _number(int, 1, "a number of records")),
    "AGENTPIPE_OUTBOX_HIGH_WATER_BYTES": (
        "outbox_high_water_bytes",
        _number(int, 1, "a number of bytes"),
    ),
    "AGENTPIPE_RETENTION_S": ("retention_s", _number(float, 0, "seconds")),
    "AGENTPIPE_RETRY_DELAY_S": ("retry_delay_s", _number(float, 0, "seconds")),
    "AGENTPIPE_MAX_QUEUE_SIZE": ("max_queue_size", _number(int, 1, "a number of tasks")),
    "AGENTPIPE_SLOTS": ("slots", _number(int, 1, "a number of runs")),
    "AGENTPIPE_LOG_LEVEL": ("log_level", _one_of(LOG_LEVELS)),
    "AGENTPIPE_LOG_FORMAT": ("log_format", _one_of(LOG_FORMATS)),
    "AGENTPIPE_SUPERVISOR_PID": ("supervisor_pid", _number(int, 1, "a process id")),
}

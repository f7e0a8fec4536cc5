"""Settings: one frozen object, read once from the environment at the edge of the program."""

from __future__ import annotations

import math
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from agentpipe.connections.environment import URL_VARIABLES, server_urls
from agentpipe.core.arguments import check_type
from agentpipe.core.did_you_mean import nearest
from agentpipe.errors import ConfigError, Problem

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

HOME, BROKER_FILE, RESULTS_FILE = ".agentpipe", "broker.db", "results.db"
DAY_S = 86_400.0
LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR")
LOG_FORMATS = ("text", "json")
# Larger values are typos, and servers and files would reject them only later.
MAX_SECONDS, MAX_SLOTS = 10**9, 100_000
_PREFIX = "AGENTPIPE_"
# At this similarity, without the prefix, a variable is a misspelling (`MAX_QUEUE`), not one of the
# user's own (`API_KEY`).
_MISSPELT = 0.75


def embedded_url(name: str, folder: Path | None = None) -> str:
    """Return the URL of an embedded store below ``folder``, or below the current directory."""
    return f"sqlite:///{quote(bytes((folder or Path.cwd()) / HOME / name))}"


@dataclass(frozen=True, slots=True)
class OutboxLimits:
    """Limits of the outbox; a worker stops claiming when its outbox reaches either."""

    records: int
    size_bytes: int

    def reached_by(self, records: int, size_bytes: int) -> bool:
        """Whether an outbox of this size has reached either limit."""
        return records >= self.records or size_bytes >= self.size_bytes


@dataclass(frozen=True, slots=True)
class Settings:
    """Values from the environment, with defaults.

    Attributes:
        broker: URL of the store that holds tasks and the outbox.
        sink: URL of the stream that receives results.
        collection_file: The collection file; None if the command names it.
        lease_s: Without a heartbeat for this long, a worker's tasks go to other workers.
        grace_s: How long a worker waits for its runs on shutdown.
        outbox_high_water: Number of undelivered results at which workers stop claiming.
        outbox_high_water_bytes: The same limit in bytes.
        retention_s: How long the id of a settled task is remembered.
        retry_delay_s: Delay before the first retry; it doubles with each further retry.
        max_queue_size: Default for collections that do not set their own.
        slots: Concurrent runs per worker process; 0 means the sum of its agents' limits.
        supervisor_pid: The worker ends when this process ends; 0 for none.
        drain_before: Time in microseconds of this machine's last drain before the supervisor
            started; -1 if not looked up yet.
        heartbeat_file: File that the supervisor touches while it works; empty for none.
        last_word_file: File in which the worker reports its state to its supervisor; empty for
            none.
    """

    broker: str = field(default_factory=lambda: embedded_url(BROKER_FILE))
    sink: str = field(default_factory=lambda: embedded_url(RESULTS_FILE))
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
    drain_before: int = -1
    heartbeat_file: str = ""
    last_word_file: str = ""

    def __post_init__(self) -> None:
        """Check that broker and sink are not the same SQLite file: each store has its own tables.

        Raises:
            ConfigError: Broker and sink are the same file.
        """
        if self.broker.startswith("sqlite:") and self.sink.startswith("sqlite:"):
            from agentpipe.connections.sqlite_address import parse_url

            if parse_url(self.broker).path == parse_url(self.sink).path:
                raise ConfigError(
                    f"broker and sink are one file, {self.broker}: choose another file for "
                    "the sink with --sink URL or AGENTPIPE_SINK"
                )

    @property
    def outbox_limits(self) -> OutboxLimits:
        """Both outbox limits, in the form that stores take."""
        return OutboxLimits(self.outbox_high_water, self.outbox_high_water_bytes)

    @classmethod
    def from_env(cls, environ: Mapping[str, str], mq_type: str | None = None) -> Settings:
        """Read ``environ``; an empty value counts as unset.

        ``server_urls`` finds broker and sink, and documents what ``mq_type`` chooses.

        Raises:
            ConfigError: One problem for each invalid variable, and one for each pair of variables
                that name different servers.
        """
        urls, problems = server_urls(environ, mq_type)
        values: dict[str, Any] = {**urls}
        for variable, (name, parse) in _VARIABLES.items():
            if text := environ.get(variable, ""):
                try:
                    values[name] = parse(text)
                except ValueError as error:
                    problems.append(Problem(f"{variable}: {error}"))
        if problems:
            raise ConfigError(problems)
        return cls(**values)

    @classmethod
    def given(cls, settings: Settings | None) -> Settings:
        """The settings that a caller gave; without any, those of this process's environment.

        Raises:
            ConfigError: They are something else, such as a URL, or the environment is invalid.
        """
        if settings is None:
            return cls.from_env(os.environ)
        check_type("settings", settings, cls, "agentpipe.Settings")
        return settings


def _number(
    kind: Callable[[str], float], low: float, unit: str, high: float = 2**53
) -> Callable[[str], Any]:
    def parse(text: str) -> float:
        try:
            value = kind(text)
        except ValueError:
            value = math.nan
        if not low <= value < math.inf:
            raise ValueError(f"expected {unit}, at least {low:g}; got {text[:40]!r}")
        if value > high:
            raise ValueError(f"expected {unit}, at most {high:,}; got {text[:40]!r}")
        return value

    return parse


def _seconds(low: float) -> Callable[[str], Any]:
    return _number(float, low, "seconds", MAX_SECONDS)


def _one_of(choices: tuple[str, ...]) -> Callable[[str], str]:
    def parse(text: str) -> str:
        for choice in choices:
            if choice.lower() == text.lower():
                return choice
        raise ValueError(f"expected one of {', '.join(choices)}; got {text[:40]!r}")

    return parse


_VARIABLES: dict[str, tuple[str, Callable[[str], Any]]] = {
    "AGENT_COLLECTION_CONFIG_FILE": ("collection_file", Path),
    "AGENTPIPE_LEASE_S": ("lease_s", _seconds(0.5)),
    "AGENTPIPE_GRACE_S": ("grace_s", _seconds(0)),
    "AGENTPIPE_OUTBOX_HIGH_WATER": ("outbox_high_water", _number(int, 1, "a number of records")),
    "AGENTPIPE_OUTBOX_HIGH_WATER_BYTES": (
        "outbox_high_water_bytes",
        _number(int, 1, "a number of bytes"),
    ),
    "AGENTPIPE_RETENTION_S": ("retention_s", _seconds(0)),
    "AGENTPIPE_RETRY_DELAY_S": ("retry_delay_s", _seconds(0)),
    "AGENTPIPE_MAX_QUEUE_SIZE": ("max_queue_size", _number(int, 1, "a number of tasks")),
    "AGENTPIPE_SLOTS": ("slots", _number(int, 1, "a number of runs", MAX_SLOTS)),
    "AGENTPIPE_LOG_LEVEL": ("log_level", _one_of(LOG_LEVELS)),
    "AGENTPIPE_LOG_FORMAT": ("log_format", _one_of(LOG_FORMATS)),
    "AGENTPIPE_SUPERVISOR_PID": ("supervisor_pid", _number(int, 1, "a process id")),
    "AGENTPIPE_DRAIN_BEFORE": ("drain_before", _number(int, 0, "a time in microseconds")),
    "AGENTPIPE_HEARTBEAT_FILE": ("heartbeat_file", str),
    "AGENTPIPE_LAST_WORD_FILE": ("last_word_file", str),
}


def misspelt_variables(environ: Mapping[str, str]) -> list[str]:
    """Return one sentence for each variable that is nearly, but not, one of the settings."""
    settings = (*URL_VARIABLES.values(), *_VARIABLES)
    known = {each.removeprefix(_PREFIX): each for each in settings}
    given = [each for each in sorted(environ) if each.startswith(_PREFIX) and each not in settings]
    return [
        f"{name} is not a setting: did you mean {known[near]}?"
        for name in given
        if (near := nearest(name.removeprefix(_PREFIX), known, _MISSPELT))
    ]

"""The groups of figures that ``make bench`` measures, in the order of the document."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Group:
    """Figures that are measured together.

    Attributes:
        module: A module with ``measure()``.
        title: Its heading in the document.
    """

    module: str
    title: str


GROUPS = {
    "starting": Group("bench.starting", "Starting a command"),
    "rivals": Group("bench.on_rivals", "Other task runners on one Redis"),
    "sqlite": Group("bench.on_sqlite", "SQLite as the broker"),
    "redis": Group("bench.on_redis", "Redis as the broker"),
    "rabbitmq": Group("bench.on_rabbitmq", "RabbitMQ as the broker"),
    "kafka": Group("bench.on_kafka", "Results in Kafka"),
    "agents": Group("bench.on_agents", "Ready-made agents"),
    "servers": Group("bench.on_servers", "MCP servers"),
    "runs": Group("bench.on_runs", "Runs and reports"),
    "archive": Group("bench.on_archive", "Archives"),
    "exports": Group("bench.on_exports", "Exports"),
    "web": Group("bench.on_web", "Pages"),
}

"""The options of MCP-Universe's commands."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.cli.opening import warn_of_misspelt, warn_of_password
from agentpipe.cli.options import add_common
from agentpipe.connections.environment import MQ_TYPES, URL_VARIABLES, names_a_queue
from agentpipe.settings import Settings

if TYPE_CHECKING:
    import argparse

OPTIONS = {
    "--redis-host": "REDIS_HOST",
    "--redis-port": "REDIS_PORT",
    "--kafka-host": "KAFKA_HOST",
    "--kafka-port": "KAFKA_PORT",
    "--rabbitmq-host": "RABBITMQ_HOST",
    "--rabbitmq-port": "RABBITMQ_PORT",
    "--mq-topic": "MQ_TOPIC",
}


def add_options(parser: argparse.ArgumentParser) -> None:
    """Add MCP-Universe's options and the common ones."""
    parser.add_argument(
        "--agent-collection",
        metavar="FILE",
        dest="collection_file",
        help="collection file, as with -c",
    )
    parser.add_argument("--mq-type", choices=MQ_TYPES, help="kind of the sink (default: kafka)")
    for option, variable in OPTIONS.items():
        parser.add_argument(option, metavar="VALUE", help=f"override ${variable}")
    add_common(parser)


def settings_of(args: argparse.Namespace) -> Settings:
    """Settings from the environment, overridden by options.

    Raises:
        ConfigError: A value is invalid, or two values name different servers.
    """
    given = {
        variable: value
        for option, variable in OPTIONS.items()
        if (value := getattr(args, option[2:].replace("-", "_")))
    }
    environ = {**os.environ, **given}
    warn_of_misspelt(environ)
    for option, variable in URL_VARIABLES.items():
        if url := getattr(args, option):
            environ[variable] = url
            warn_of_password(option, url)
    settings = Settings.from_env(environ, _mq_type(args, environ))
    bound = getattr(args, "max_queue_size", None)
    return replace(settings, max_queue_size=bound) if bound else settings


def _mq_type(args: argparse.Namespace, environ: dict[str, str]) -> str | None:
    """The sink's type, kafka by default; None leaves the choice to ``Settings``.

    Kafka, given or by default, applies only if one of MCP-Universe's variables names a sink, and
    the default yields to ``AGENTPIPE_SINK``. ``AgentPipeline`` does the same: it passes kafka by
    default, but uses the embedded stream if no variable is set.
    """
    queues = names_a_queue(environ)
    kind: str | None = args.mq_type
    if kind in (None, MQ_TYPES[0]):
        return MQ_TYPES[0] if queues and (kind or not environ.get("AGENTPIPE_SINK")) else None
    return kind

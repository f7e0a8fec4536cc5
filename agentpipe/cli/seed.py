"""What MCP-Universe's verbs share: its options, and the settings that they mean."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING

from agentpipe.cli.common import add_common
from agentpipe.settings import MQ_TYPES, SEED_VARIABLES, Settings

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


def add_seed(parser: argparse.ArgumentParser) -> None:
    """Its options, and those that every command takes."""
    parser.add_argument(
        "--agent-collection",
        metavar="FILE",
        dest="collection_file",
        help="the collection file, as with -c",
    )
    parser.add_argument("--mq-type", choices=MQ_TYPES, help="where results go (default: kafka)")
    for option, variable in OPTIONS.items():
        parser.add_argument(option, metavar="VALUE", help=f"in place of ${variable}")
    add_common(parser)


def seed_settings(args: argparse.Namespace) -> Settings:
    """The environment's settings with the options in their place.

    Raises:
        ConfigError: Something is wrong, or two of them name different servers.
    """
    given = {
        variable: value
        for option, variable in OPTIONS.items()
        if (value := getattr(args, option[2:].replace("-", "_")))
    }
    environ = {**os.environ, **given}
    if args.broker:
        environ["AGENTPIPE_BROKER"] = args.broker
    if args.sink:
        environ["AGENTPIPE_SINK"] = args.sink
    settings = Settings.from_env(environ, _mq_type(args, environ))
    bound = getattr(args, "max_queue_size", None)
    return replace(settings, max_queue_size=bound) if bound else settings


def _mq_type(args: argparse.Namespace, environ: dict[str, str]) -> str | None:
    """The one given; kafka where MCP-Universe's variables leave the choice.

    Kafka is what `AgentPipeline` says by itself: with nothing set it stays with the embedded
    stream there, and so it does here.
    """
    queues = any(environ.get(name) for name in SEED_VARIABLES if not name.startswith("REDIS"))
    kind: str | None = args.mq_type
    if kind in (None, MQ_TYPES[0]):
        return MQ_TYPES[0] if queues and (kind or not environ.get("AGENTPIPE_SINK")) else None
    return kind

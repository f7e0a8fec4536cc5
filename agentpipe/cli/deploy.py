"""``agentpipe deploy``: print what runs a fleet elsewhere."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.cli.common import (
    add_json,
    collection_file,
    print_json,
    print_text,
    refuse_below_one,
    say,
)
from agentpipe.cli.exit_codes import OK

if TYPE_CHECKING:
    import argparse

    from agentpipe.deploy.keda import Scaling
    from agentpipe.deploy.kubernetes import Cluster
    from agentpipe.settings import Settings


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument("target", choices=("kubernetes",), help="what to print manifests for")
    parser.add_argument(
        "-c",
        "--collection-file",
        metavar="FILE",
        help="collection file (default: $AGENT_COLLECTION_CONFIG_FILE, else collection.yaml)",
    )
    parser.add_argument("--image", metavar="NAME", required=True, help="image of the workers")
    parser.add_argument(
        "--image-folder",
        metavar="DIR",
        default="/app",
        help="where the image has agent configs and code (default: /app)",
    )
    parser.add_argument(
        "--secret",
        metavar="NAME",
        default="agentpipe",
        help="the Secret with all credentials (default: agentpipe)",
    )
    parser.add_argument(
        "--secret-env",
        metavar="VARIABLE",
        action="append",
        default=[],
        help="a variable of that Secret for agents themselves, such as OPENAI_API_KEY; repeatable",
    )
    parser.add_argument(
        "--replicas", metavar="N", type=int, default=2, help="pods per collection (default: 2)"
    )
    parser.add_argument(
        "--slots", metavar="N", type=int, help="runs at once in a pod (default: all agents')"
    )
    parser.add_argument(
        "--memory-mib", metavar="N", type=int, help="what a pod asks for (default: by its slots)"
    )
    parser.add_argument("--scaler", choices=("keda",), help="as many pods as tasks need, by KEDA")
    parser.add_argument(
        "--scaler-trigger",
        choices=("prometheus", "metrics-api", "redis"),
        default="prometheus",
        help="what KEDA counts tasks by (default: prometheus)",
    )
    parser.add_argument(
        "--scaler-address",
        metavar="URL",
        default="",
        help="of Prometheus, of `agentpipe metrics`, or host:port of Redis",
    )
    parser.add_argument(
        "--max-replicas", metavar="N", type=int, default=10, help="most pods by KEDA (default: 10)"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print YAML to stdout; what must exist beside it to stderr."""
    import os

    from agentpipe.config.collection import load
    from agentpipe.deploy.kubernetes import as_yaml, manifests
    from agentpipe.settings import Settings

    for option in ("--replicas", "--slots", "--memory-mib", "--max-replicas"):
        refuse_below_one(option, getattr(args, option[2:].replace("-", "_")))
    settings = Settings.from_env(os.environ)
    collections = load(collection_file(args, settings), settings.max_queue_size)
    made = manifests(collections, _cluster(args, settings))
    if args.json:
        print_json({"manifests": made})
    else:
        print_text(*as_yaml(made).splitlines())
    say(
        f"the Secret {args.secret} must exist, with AGENTPIPE_BROKER, AGENTPIPE_SINK and all that "
        "the contexts refer to",
        f"the image must have the agent configs and what they name in {args.image_folder}, at the "
        "places relative to the collection file",
    )
    return OK


def _cluster(args: argparse.Namespace, settings: Settings) -> Cluster:
    from agentpipe.deploy.kubernetes import Cluster

    return Cluster(
        args.image,
        args.image_folder.rstrip("/"),
        args.secret,
        args.replicas,
        tuple(args.secret_env),
        slots=args.slots or 0,
        memory_mib=args.memory_mib or 0,
        scaling=_scaling(args, settings) if args.scaler else None,
    )


def _scaling(args: argparse.Namespace, settings: Settings) -> Scaling:
    """With the prefix of the broker's keys, where its URL is at hand."""
    from urllib.parse import parse_qs, urlsplit

    from agentpipe.deploy.keda import Scaling

    prefix = parse_qs(urlsplit(settings.broker).query).get("prefix", ["agentpipe"])[0]
    return Scaling(
        args.scaler_trigger, args.scaler_address, max_replicas=args.max_replicas, prefix=prefix
    )

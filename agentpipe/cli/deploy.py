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
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Print YAML to stdout; what must exist beside it to stderr."""
    import os

    from agentpipe.config.collection import load
    from agentpipe.deploy.kubernetes import Cluster, as_yaml, manifests
    from agentpipe.settings import Settings

    refuse_below_one("--replicas", args.replicas)
    settings = Settings.from_env(os.environ)
    collections = load(collection_file(args, settings), settings.max_queue_size)
    folder, variables = args.image_folder.rstrip("/"), tuple(args.secret_env)
    cluster = Cluster(args.image, folder, args.secret, args.replicas, variables)
    made = manifests(collections, cluster)
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

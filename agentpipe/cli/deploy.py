"""``agentpipe deploy``: print Kubernetes manifests or systemd units for a fleet."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import collection_file
from agentpipe.cli.options import add_collection_file, add_json, refuse_below_one
from agentpipe.cli.output import print_json, print_text, say
from agentpipe.core.redaction import without_password
from agentpipe.deploy.keda import TRIGGERS
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

    from agentpipe.cli.options import ArgumentGroup
    from agentpipe.config.collection import Collection
    from agentpipe.deploy.cluster import Cluster
    from agentpipe.deploy.keda import Scaling
    from agentpipe.settings import Settings

TARGETS = ("kubernetes", "systemd")
# The trigger `redis` uses this server if this environment's broker is not Redis.
USUAL_SERVER = "redis://redis"


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "target", metavar="TARGET", choices=TARGETS, help="what to print: kubernetes or systemd"
    )
    _add_kubernetes(parser.add_argument_group("for kubernetes"))
    _add_scaler(parser.add_argument_group("for kubernetes, with KEDA"))
    _add_systemd(parser.add_argument_group("for systemd"))
    parser.add_argument(
        "--secret-env",
        metavar="VARIABLE",
        action="append",
        default=[],
        help="a further credential, for agents themselves, such as OPENAI_API_KEY; repeatable",
    )
    add_collection_file(parser)
    add_json(parser)


def _add_systemd(parser: ArgumentGroup) -> None:
    parser.add_argument(
        "--user",
        metavar="NAME",
        default="agentpipe",
        help="user that runs the workers (default: agentpipe)",
    )
    parser.add_argument(
        "--credentials",
        metavar="DIR",
        default="/etc/agentpipe",
        help="folder with a file for each credential (default: /etc/agentpipe)",
    )
    parser.add_argument(
        "--program", metavar="FILE", help="path of agentpipe on the machine (default: this one)"
    )


def _add_kubernetes(parser: ArgumentGroup) -> None:
    parser.add_argument("--image", metavar="NAME", help="image of the workers, required")
    parser.add_argument(
        "--image-folder",
        metavar="DIR",
        default="/app",
        help="folder of agent configs and code in the image (default: /app)",
    )
    parser.add_argument(
        "--secret",
        metavar="NAME",
        default="agentpipe",
        help="the Secret with all credentials (default: agentpipe)",
    )
    parser.add_argument(
        "--replicas", metavar="N", type=int, default=2, help="pods per collection (default: 2)"
    )
    parser.add_argument(
        "--slots", metavar="N", type=int, help="concurrent runs in a pod (default: all agents')"
    )
    parser.add_argument(
        "--memory-mib",
        metavar="N",
        type=int,
        help="memory request of a pod (default: by its slots)",
    )


def _add_scaler(parser: ArgumentGroup) -> None:
    parser.add_argument("--scaler", choices=("keda",), help="start as many pods as tasks need")
    parser.add_argument(
        "--scaler-trigger",
        choices=TRIGGERS,
        default="prometheus",
        help="where KEDA reads the number of tasks (default: prometheus)",
    )
    parser.add_argument(
        "--scaler-address",
        metavar="URL",
        default="",
        help="URL of Prometheus or of `agentpipe metrics`, or host:port of Redis",
    )
    parser.add_argument(
        "--max-replicas", metavar="N", type=int, default=10, help="most pods (default: 10)"
    )


def run(args: argparse.Namespace) -> int:
    """Print the files to stdout, and what else they need to stderr."""
    import os

    from agentpipe.config.collection import load
    from agentpipe.settings import Settings

    for option in ("--replicas", "--slots", "--memory-mib", "--max-replicas"):
        refuse_below_one(option, getattr(args, option[2:].replace("-", "_")))
    settings = Settings.from_env(os.environ)
    collections = load(collection_file(args, settings), settings.max_queue_size)
    if args.target == "systemd":
        _print_units(args, collections)
    else:
        _print_manifests(args, collections, settings)
    return OK


def _print_units(args: argparse.Namespace, collections: Sequence[Collection]) -> None:
    from pathlib import Path

    from agentpipe.deploy.systemd import Machine, units

    program = args.program or str(Path(sys.argv[0]).resolve())
    machine = Machine(program, args.user, args.credentials, tuple(args.secret_env))
    made = units(collections, machine)
    if args.json:
        print_json({"units": {each.name: each.text for each in made}})
    for each in () if args.json else made:
        print_text(f"# /etc/systemd/system/{each.name}", *each.text.splitlines())
    say(
        f"{args.credentials} must have a file for each LoadCredential=, which only root can read",
        f"the user {args.user} must exist, and be able to read the collection file and the code",
    )


def _print_manifests(
    args: argparse.Namespace, collections: Sequence[Collection], settings: Settings
) -> None:
    from agentpipe.deploy.kubernetes import as_yaml, manifests

    if not args.image:
        raise ConfigError("name the image of the workers: --image registry/agents:1")
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


def _cluster(args: argparse.Namespace, settings: Settings) -> Cluster:
    from agentpipe.deploy.cluster import Cluster

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
    from agentpipe.deploy.keda import Scaling

    asks_server = args.scaler_trigger == "redis"
    return Scaling(
        args.scaler_trigger,
        args.scaler_address,
        max_replicas=args.max_replicas,
        server_trigger=_server_trigger(args.scaler_address, settings) if asks_server else None,
    )


def _server_trigger(address: str, settings: Settings) -> Callable[[int], dict[str, Any]]:
    """Build the trigger from this environment's broker URL; the Secret's can differ."""
    from functools import partial

    from agentpipe.brokers.scaling import TellsScaler
    from agentpipe.connections import plugins

    url = settings.broker
    kind = plugins.load_for_url("agentpipe.brokers", url)
    if not isinstance(kind, TellsScaler):
        url = USUAL_SERVER
        kind = plugins.load_for_url("agentpipe.brokers", url)
        say(
            f"the broker here, {without_password(settings.broker)}, is not Redis: KEDA asks for "
            "database 0 and the prefix agentpipe; set AGENTPIPE_BROKER to the fleet's for others"
        )
    return partial(kind.scaler_trigger, url, address)

"""``agentpipe probe``: liveness and readiness, for Kubernetes and other supervisors."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_tasks
from agentpipe.cli.exit_codes import FAILED, OK
from agentpipe.cli.opening import settings_of, store_to_read
from agentpipe.cli.options import add_common, seconds
from agentpipe.cli.output import print_either
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

    from agentpipe.operations.probes import Probed
    from agentpipe.settings import Settings

MAX_AGE_S = 60.0


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    parser.add_argument(
        "what",
        metavar="PROBE",
        choices=("live", "ready"),
        help="live: the supervisor works; ready: the broker answers, the outbox has room",
    )
    parser.add_argument(
        "--file", metavar="FILE", help="live: heartbeat file (default: $AGENTPIPE_HEARTBEAT_FILE)"
    )
    parser.add_argument(
        "--max-age",
        metavar="S",
        type=seconds,
        default=MAX_AGE_S,
        help=f"live: oldest accepted heartbeat, in seconds (default: {MAX_AGE_S:g})",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Print the finding; return 0 if good, 1 if not. The exit code is 4 without a broker."""
    settings = settings_of(args)
    probed = _live(args, settings) if args.what == "live" else _ready(args, settings)
    print_either(args, {"good": probed.good, "found": probed.found}, probed.found)
    return OK if probed.good else FAILED


def _live(args: argparse.Namespace, settings: Settings) -> Probed:
    from agentpipe.operations.probes import is_live

    file = args.file or settings.heartbeat_file
    if not file:
        raise ConfigError("no heartbeat file: set AGENTPIPE_HEARTBEAT_FILE, for `work` too")
    return is_live(Path(file), args.max_age)


def _ready(args: argparse.Namespace, settings: Settings) -> Probed:
    from agentpipe.operations.probes import is_ready

    require_tasks(args, settings)
    with store_to_read(settings) as store:
        return is_ready(store.stats(), settings.outbox_limits)

"""Options that several commands have, and the parsers of their values."""

from __future__ import annotations

import argparse
import math
import re
import time
from typing import TYPE_CHECKING

from agentpipe.core.run_names import RUN_NAME, is_run_name
from agentpipe.core.timestamps import seconds_of
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    # A parser is a group too.
    ArgumentGroup = argparse.ArgumentParser | argparse._ArgumentGroup  # noqa: SLF001 - has no public name

USUAL_FILE = "collection.yaml"
LOCALHOST = "127.0.0.1"
_MAX_PORT = 65_535
_UNITS_S = {"s": 1.0, "m": 60.0, "h": 3_600.0, "d": 86_400.0, "w": 604_800.0}
_AGE = re.compile(r"(\d{1,12}(?:\.\d{1,12})?)([smhdw])")


def add_common(parser: argparse.ArgumentParser) -> None:
    """Add the options that most commands have."""
    group = parser.add_argument_group("common options")
    add_collection_file(group)
    group.add_argument(
        "--broker",
        metavar="URL",
        help="broker of the tasks (default: $AGENTPIPE_BROKER, else embedded)",
    )
    group.add_argument(
        "--sink",
        metavar="URL",
        help="sink of the results (default: $AGENTPIPE_SINK, else embedded)",
    )
    add_json(group)


def add_collection_file(parser: ArgumentGroup) -> None:
    """Add ``-c``."""
    parser.add_argument(
        "-c",
        "--collection-file",
        metavar="FILE",
        help=f"collection file (default: $AGENT_COLLECTION_CONFIG_FILE, else {USUAL_FILE})",
    )


def add_json(parser: ArgumentGroup, text: str = "print JSON") -> None:
    """Add ``--json``."""
    parser.add_argument("--json", action="store_true", help=text)


def add_address(parser: argparse.ArgumentParser, default_port: int) -> None:
    """Add ``--host`` and ``--port`` to a command that listens."""
    parser.add_argument(
        "--host",
        default=LOCALHOST,
        help=f"address to listen on (default: {LOCALHOST}, this machine only)",
    )
    parser.add_argument(
        "--port",
        metavar="N",
        type=port,
        default=default_port,
        help=f"port, 0 for any free one (default: {default_port})",
    )


def add_on_full(parser: argparse.ArgumentParser) -> None:
    """Add ``--on-full``."""
    parser.add_argument(
        "--on-full",
        choices=("refuse", "wait"),
        default="refuse",
        help="refuse tasks or wait when every queue is full (default: refuse)",
    )


def add_run(parser: ArgumentGroup, text: str = "only tasks of this run") -> None:
    """Add ``--run NAME``; its value is ``run_name``, since ``run`` is the command's function."""
    parser.add_argument("--run", dest="run_name", metavar="NAME", type=run_name, help=text)


def run_name(text: str) -> str:
    """Parse the name of a run."""
    if not is_run_name(text):
        raise argparse.ArgumentTypeError(f"{text[:80]!a}: expected {RUN_NAME}")
    return text


def seconds(text: str) -> float:
    """Parse a duration; refuse NaN, which no time limit would ever reach."""
    value = _number(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected seconds from 0, got {text[:80]!a}")
    return value


def port(text: str) -> int:
    """Parse a port number; 0 means any free port."""
    if not (text.isascii() and text.isdecimal() and int(text[:9]) <= _MAX_PORT):
        raise argparse.ArgumentTypeError(f"expected a number from 0 to {_MAX_PORT}, got {text!r}")
    return int(text)


def finite(text: str) -> float:
    """Parse a finite number; comparisons with NaN are always false."""
    value = _number(text)
    if not math.isfinite(value):
        raise argparse.ArgumentTypeError(f"expected a number, got {text[:80]!a}")
    return value


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return math.nan


def refuse_below_one(option: str, value: int | None) -> None:
    """Raise ``ConfigError`` if the option is given and less than 1."""
    if value is not None and value < 1:
        raise ConfigError(f"{option} must be at least 1, got {value}")


def refuse_timeout_alone(args: argparse.Namespace) -> None:
    """Raise ``ConfigError`` for ``--timeout`` without ``--wait``."""
    if args.timeout is not None and not args.wait:
        raise ConfigError("--timeout is how long to wait: add --wait")


def age_or_time(option: str, text: str | None) -> float | None:
    """Unix seconds of an age such as ``3d``, or of an ISO 8601 time with a zone."""
    if text is None:
        return None
    if found := _AGE.fullmatch(text):
        return max(0.0, time.time() - float(found[1]) * _UNITS_S[found[2]])
    moment = seconds_of(text)
    if moment is None:
        raise ConfigError(
            f"{option} {text[:40]!r}: write an age such as 10m, 3h or 2d, "
            "or a time such as 2026-01-31T08:00Z"
        )
    return moment

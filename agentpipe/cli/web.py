"""``agentpipe web``: serve read-only pages of the fleet, of runs and of tasks."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from agentpipe.cli.embedded_files import require_results
from agentpipe.cli.exit_codes import OK
from agentpipe.cli.opening import settings_of
from agentpipe.cli.options import add_address, add_common
from agentpipe.cli.output import print_either, say
from agentpipe.cli.signals import ending
from agentpipe.core.distribution import needs_extra
from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    import argparse

PORT = 9809
EXTRA = ("jinja2", "markupsafe", "starlette", "uvicorn")


def add(parser: argparse.ArgumentParser) -> None:
    """Add the command's arguments."""
    add_address(parser, PORT)
    token = parser.add_mutually_exclusive_group()
    token.add_argument(
        "--token", default="", help="token that viewers need (default: a random one)"
    )
    token.add_argument("--token-file", metavar="FILE", help="the same, from a file")
    parser.add_argument(
        "--trust-header",
        metavar="NAME",
        default="",
        help="accept viewers whom a proxy has authenticated: requests with this header",
    )
    parser.add_argument(
        "--allow-host",
        metavar="NAME",
        action="append",
        default=[],
        help="another name of this server, such as a proxy's; may be repeated",
    )
    add_common(parser)


def run(args: argparse.Namespace) -> int:
    """Serve until a signal."""
    settings, token = settings_of(args), _token(args)
    require_results(args, settings)
    with needs_extra("pages need the extra web", "web", *EXTRA):
        from agentpipe.web.server import Place, serve

    place = Place(args.host, args.port, token, args.trust_header, tuple(args.allow_host))

    def announce(base: str, with_token: str) -> None:
        print_either(args, {"url": with_token}, with_token)
        say(f"pages at {base}: open the address above; Ctrl-C ends them")

    with ending():
        serve(settings, place, announce)
    return OK


def _token(args: argparse.Namespace) -> str:
    if args.token_file is None:
        return str(args.token)
    try:
        token = Path(args.token_file).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"--token-file {args.token_file}: cannot read it: {error}") from error
    if not token:
        raise ConfigError(f"--token-file {args.token_file}: it is empty: write the token into it")
    return token

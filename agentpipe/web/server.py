"""The server: listens at an address and announces it."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import uvicorn

from agentpipe.connections.listening import cannot_listen
from agentpipe.connections.url import host_in_url, is_loopback
from agentpipe.errors import ConfigError
from agentpipe.web.access import WebAccess, refuse_bad_names
from agentpipe.web.app import application

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.settings import Settings

TOKEN_BYTES, LEAST_TOKEN = 24, 16
# Each viewer of the fleet holds a connection.
MOST_CONNECTIONS = 500
_GRACE_S = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen, and who has access.

    Attributes:
        port: 0 for any free port.
        token: Empty for a random token, or for none if ``header`` is set.
        header: The header that a proxy sets for authenticated users.
        hosts: More accepted host names.
    """

    host: str
    port: int
    token: str = ""
    header: str = ""
    hosts: tuple[str, ...] = ()


def serve(settings: Settings, place: Place, announce: Callable[[str, str], None]) -> None:
    """Serve until a signal; ``announce`` gets the URL without the token, and the URL with it.

    Raises:
        ConfigError: Other machines could reach the server without a token or trusted header.
        AgentpipeError: The server cannot listen at the address.
    """
    refuse_open(place)
    with _listening(place) as listener:
        port = listener.getsockname()[1]
        access = access_of(place, port)
        server = uvicorn.Server(_config(settings, access))
        base = f"http://{host_in_url(place.host)}:{port}/"
        query = urlencode({"token": access.token}) if access.token else ""
        announce(base, f"{base}?{query}" if query else base)
        server.run(sockets=[listener])


def access_of(place: Place, port: int) -> WebAccess:
    """What requests to this place need to pass."""
    token = place.token or ("" if place.header else secrets.token_urlsafe(TOKEN_BYTES))
    names = {place.host.lower(), *map(str.lower, place.hosts)}
    return WebAccess(port, token, place.header.lower(), frozenset(names - {""}))


def refuse_open(place: Place) -> None:
    """Refuse a short token, and a public address without a token or a trusted header.

    Raises:
        ConfigError: The message has the remedy.
    """
    refuse_bad_names(place.header, place.hosts)
    if place.token and len(place.token) < LEAST_TOKEN:
        raise ConfigError(f"--token: use at least {LEAST_TOKEN} characters")
    if not (place.token or place.header or is_loopback(place.host)):
        raise ConfigError(
            f"--host {place.host}: others could reach these pages; give them a token with "
            "--token or --token-file, or put a proxy before them and name its header with "
            "--trust-header"
        )


def _listening(place: Place) -> socket.socket:
    try:
        family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((place.host, place.port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        raise cannot_listen(place.host, place.port, error) from error


def _config(settings: Settings, access: WebAccess) -> uvicorn.Config:
    """The server's configuration, without an access log: URLs can contain the token."""
    return uvicorn.Config(
        application(settings, access),
        access_log=False,
        log_level="warning",
        log_config=None,
        ws="none",
        http="h11",
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=_GRACE_S,
    )

"""The server: where it listens, and how it says so."""

from __future__ import annotations

import secrets
import socket
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import urlencode

import uvicorn

from agentpipe.connections.url import host_in_url
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.web.access import Access, refuse_bad_names
from agentpipe.web.app import application

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.settings import Settings

TOKEN_BYTES, LEAST_TOKEN = 24, 16
# Viewers of the fleet hold a connection each.
MOST_CONNECTIONS = 500
_GRACE_S = 1


@dataclass(frozen=True, slots=True)
class Place:
    """Where to listen, and for whom.

    Attributes:
        port: 0 for any that is free.
        token: Empty for one at random, unless a header is trusted.
        header: What a proxy sets for users whom it has authenticated.
        hosts: More names by which browsers may call the server.
    """

    host: str
    port: int
    token: str = ""
    header: str = ""
    hosts: tuple[str, ...] = ()


def serve(settings: Settings, place: Place, announce: Callable[[str, str], None]) -> None:
    """Until a signal; ``announce`` gets the address without the token, and with it.

    Raises:
        ConfigError: Others could reach it, and nothing would hold them off.
        AgentpipeError: The address cannot be had.
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


def access_of(place: Place, port: int) -> Access:
    """What requests must have."""
    token = place.token or ("" if place.header else secrets.token_urlsafe(TOKEN_BYTES))
    names = {place.host.lower(), *map(str.lower, place.hosts)}
    return Access(port, token, place.header.lower(), frozenset(names - {""}))


def refuse_open(place: Place) -> None:
    """A short token can be guessed, and a server for others must not rely on its random one.

    Raises:
        ConfigError: With the remedy.
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


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches it."""
    try:
        return ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _listening(place: Place) -> socket.socket:
    try:
        family = socket.getaddrinfo(place.host, place.port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((place.host, place.port), family=family, backlog=128)
    except (OSError, OverflowError) as error:
        where = f"port {place.port} of {place.host}"
        reason = getattr(error, "strerror", None) or error
        raise AgentpipeError(f"cannot listen on {where}: {reason}; try another --port") from error


def _config(settings: Settings, access: Access) -> uvicorn.Config:
    """Without a log of requests: their URLs may have the token."""
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

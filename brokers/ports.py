"""Ports of 127.0.0.1."""

import random
import socket
from pathlib import Path

from brokers.errors import LaunchError

HOST = "127.0.0.1"
_RANGE = Path("/proc/sys/net/ipv4/ip_local_port_range")
_LOWEST, _HIGHEST = 15_000, 32_000
_TRIES = 200


def is_free(port: int) -> bool:
    """Whether a server could listen on ``port`` now."""
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((HOST, port))
        except OSError:
            return False
    return True


def free_port() -> int:
    """A free port outside the kernel's range for clients.

    While a server is down, one of its clients could get a port of that range, connect to itself,
    and block the server's restart.
    """
    highest = min(_HIGHEST, _first_of_clients()) - 1
    for _ in range(_TRIES):
        port = random.randint(min(_LOWEST, highest - 1000), highest)  # noqa: S311 - no secret
        if is_free(port):
            return port
    raise LaunchError(f"no free port between {_LOWEST} and {highest} of {HOST}: give one")


def _first_of_clients() -> int:
    try:
        return int(_RANGE.read_text().split()[0])
    except (OSError, ValueError, IndexError):
        return _HIGHEST

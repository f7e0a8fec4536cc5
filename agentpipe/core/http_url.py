"""What is wrong with the server in an ``http://`` or ``https://`` URL."""

from __future__ import annotations

from urllib.parse import urlsplit


def server_problem(url: str) -> str:
    """Describe why no request can go to the URL, without the URL: it can contain a password.

    HTTP libraries accept more: they read a port above 65,535 as another one.
    """
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return "the URL cannot be read: write http://HOST:PORT/v1"
    if parts.scheme not in ("http", "https") or not parts.hostname:
        return "expected a URL that begins with http:// or https://, and has a host"
    return "" if port != 0 else "no server listens on port 0: write http://HOST:PORT/v1"

"""An HTTP client for each agent.

httpx2's pool scans all its connections for each request: one pool for a thousand agents would
spend most of its time there. The costly part, the trusted certificates, is shared.
"""

from __future__ import annotations

import ssl
from functools import cache
from urllib.request import getproxies

import httpx2

CONNECT_LIMIT_S = 30.0


def new_client() -> httpx2.AsyncClient:
    """A client without a limit on responses; the caller sets one, and closes it."""
    timeout = httpx2.Timeout(None, connect=CONNECT_LIMIT_S)
    return httpx2.AsyncClient(
        verify=_certificates(), timeout=timeout, follow_redirects=True, trust_env=_has_proxies()
    )


@cache
def _has_proxies() -> bool:
    """Looking for them in the environment takes as long as the rest of a client."""
    return bool(getproxies())


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()

"""Clients: an HTTP client for each agent.

httpx2's pool looks at all of its connections for each request, so that one for a thousand agents
spends most of its time there. What is costly to make, the trusted certificates, is shared.
"""

from __future__ import annotations

import ssl
from functools import cache

import httpx2

CONNECT_LIMIT_S = 30.0


def new_client() -> httpx2.AsyncClient:
    """A client whose user closes it; how long an answer may take is its user's own limit."""
    timeout = httpx2.Timeout(None, connect=CONNECT_LIMIT_S)
    return httpx2.AsyncClient(verify=_certificates(), timeout=timeout, follow_redirects=True)


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()

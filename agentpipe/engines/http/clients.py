"""One HTTP client per agent.

httpx2's pool scans all its connections for each request: a pool shared by a thousand agents would
spend most of its time there. The expensive part, the trusted certificates, is shared.
"""

from __future__ import annotations

import ssl
from functools import cache
from typing import TYPE_CHECKING
from urllib.request import getproxies

import httpx2

from agentpipe.engines.http.plain import PlainTransport
from agentpipe.engines.http.redirects import refuse_to_leave

if TYPE_CHECKING:
    from collections.abc import Callable

CONNECT_LIMIT_S = 30.0


def new_client(
    refused: Callable[[httpx2.Response, str], Exception], *, plain: bool = False
) -> httpx2.AsyncClient:
    """Make a client for one server, without a response timeout; the caller sets one, and closes it.

    It follows redirects within that server, such as one to a trailing slash. For a redirect to
    another server it raises what ``refused`` returns for the response and a sentence. With
    ``plain``, ``PlainTransport`` serves ``http://`` URLs unless a proxy is configured.
    """
    plainly = plain and not _has_proxies()
    timeout = httpx2.Timeout(None, connect=CONNECT_LIMIT_S)
    return httpx2.AsyncClient(
        verify=_certificates(),
        timeout=timeout,
        follow_redirects=True,
        trust_env=_has_proxies(),
        mounts={"http://": PlainTransport()} if plainly else None,
        event_hooks={"response": [refuse_to_leave(refused)]},
    )


@cache
def _has_proxies() -> bool:
    """Whether proxies are set; cached, as the look-up takes as long as the rest of a client."""
    return bool(getproxies())


@cache
def _certificates() -> ssl.SSLContext:
    return ssl.create_default_context()

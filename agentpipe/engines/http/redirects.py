"""Redirects: requests, credentials included, never follow a redirect to another server."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import httpx2

# On 307 and 308 a client repeats its request; on other codes it would GET what it posted.
_KEEPS_METHOD = frozenset({307, 308})


def refuse_to_leave(
    refused: Callable[[httpx2.Response, str], Exception],
) -> Callable[[httpx2.Response], Awaitable[None]]:
    """A response hook that raises ``refused(response, reason)`` on a redirect to another server."""

    async def hook(response: httpx2.Response) -> None:
        if not response.has_redirect_location:
            return
        source, target = response.url, response.url.join(response.headers["location"])
        same = response.request.method == "GET" or response.status_code in _KEEPS_METHOD
        if not same or not _is_within(source, target):
            shown = target.copy_with(userinfo=b"", query=None, fragment=None)
            raise refused(response, f"it redirects to {shown}: name that URL if it is the server")

    return hook


def _is_within(source: httpx2.URL, target: httpx2.URL) -> bool:
    """Whether host and port are the same, or HTTPS on it; a default port is None."""
    origin = (target.scheme, target.host, target.port)
    allowed = {(source.scheme, source.host, source.port)}
    if source.scheme == "http" and source.port is None:
        allowed.add(("https", source.host, None))
    return origin in allowed and target.userinfo in {b"", source.userinfo}

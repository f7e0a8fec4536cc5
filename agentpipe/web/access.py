"""Guard: controls who can see the pages, and what a browser can do with them.

Another site's page can make a browser send requests here, and with DNS rebinding they look like
same-origin requests. So the guard checks the host name, then the origin of the request, then the
token. Requests that pass can only read.
"""

from __future__ import annotations

import hmac
import re
from dataclasses import dataclass, field
from ipaddress import ip_address
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.requests import cookie_parser

from agentpipe.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from starlette.responses import Response
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

STATIC = "/static/"
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
    "form-action 'self'; base-uri 'none'; frame-ancestors 'none'"
)
HEADERS = {
    "content-security-policy": POLICY,
    "cross-origin-opener-policy": "same-origin",
    "cross-origin-resource-policy": "same-origin",
    "referrer-policy": "no-referrer",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}
_BEARER = "bearer "
_READS = ("GET", "HEAD")
# A name or an address, with an optional port: browsers send nothing else.
_HOST = re.compile(r"(?:\[(?P<v6>[0-9a-fA-F:.]+)\]|(?P<name>[A-Za-z0-9._-]+))(?::[0-9]{1,5})?")
_NAME = re.compile(r"[A-Za-z0-9._-]+")
# A token of RFC 9110, section 5.6.2.
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
# Browsers send these for every user, so they prove nothing.
_OF_BROWSERS = frozenset(
    {
        "accept",
        "accept-encoding",
        "accept-language",
        "connection",
        "cookie",
        "host",
        "referer",
        "user-agent",
    }
)


@dataclass(frozen=True, slots=True)
class WebAccess:
    """What a request needs to pass.

    Attributes:
        port: Part of the cookie's name, since browsers send cookies to all ports of a host.
        token: The secret; empty if only the header counts.
        header: The header that a proxy sets after authentication; in lower case, empty for none.
        hosts: Accepted host names, besides IP addresses and ``localhost``.
    """

    port: int
    token: str = field(default="", repr=False)
    header: str = ""
    hosts: frozenset[str] = frozenset()

    @property
    def cookie(self) -> str:
        """The cookie's name."""
        return f"agentpipe-{self.port}"

    @property
    def key(self) -> str:
        """The cookie's value, which does not reveal the token."""
        return hmac.digest(self.token.encode(), b"cookie", "sha256").hex()

    def is_host(self, host: str) -> bool:
        """Whether the host is accepted. IP addresses are: DNS rebinding needs a name."""
        name = _name_of(host)
        return name == "localhost" or name in self.hosts or _is_address(name)

    def is_token(self, given: str) -> bool:
        """Whether ``given`` is the token."""
        return bool(self.token) and _same(given, self.token)

    def has_passed(self, headers: Headers) -> bool:
        """Whether the proxy's header, a bearer token or the cookie authenticates the request."""
        if self.header and headers.get(self.header, "").strip():
            return True
        if not self.token:
            return False
        given = headers.get("authorization", "")
        if given.lower().startswith(_BEARER) and self.is_token(given[len(_BEARER) :].strip()):
            return True
        return _same(cookie_parser(headers.get("cookie", "")).get(self.cookie, ""), self.key)


class Guard:
    """ASGI middleware that checks access.

    Args:
        refuse: Makes an error page from a status and a sentence.
        enter: Makes a page that opens a path; by then the browser has the cookie.
    """

    def __init__(
        self,
        app: ASGIApp,
        access: WebAccess,
        refuse: Callable[[int, str], Response],
        enter: Callable[[str], Response],
    ) -> None:
        self._app, self._access, self._refuse, self._enter = app, access, refuse, enter

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request as an ASGI application."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        app = self._answer(scope) or self._app

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                _add_headers(message)
            await send(message)

        await app(scope, receive, send_guarded)

    def _answer(self, scope: Scope) -> Response | None:
        """A refusal or the enter page; None for a request that passes."""
        headers = Headers(scope=scope)
        if scope["method"] not in _READS:
            response = self._refuse(405, "These pages can only be read.")
            response.headers["allow"] = ", ".join(_READS)
            return response
        if not self._access.is_host(headers.get("host", "")):
            why = "This name is not one of the server's: see agentpipe web --allow-host."
            return self._refuse(403, why)
        if _is_foreign(headers):
            return self._refuse(403, "Another site has asked for this page.")
        if scope["path"].startswith(STATIC) or self._access.has_passed(headers):
            return self._without_token(scope)
        return self._by_token(scope)

    def _without_token(self, scope: Scope) -> Response | None:
        """The enter page if an authenticated request still has the token in its URL, else None."""
        rest = [pair for pair in _pairs(scope) if pair[0] != "token"]
        return self._enter(_path(scope, rest)) if rest != _pairs(scope) else None

    def _by_token(self, scope: Scope) -> Response:
        """Authenticate by the URL's token: set the cookie and return the enter page.

        Not a redirect: after a link from another site, the browser would not send the new cookie.
        """
        pairs = _pairs(scope)
        tokens = [value for name, value in pairs if name == "token"]
        if not tokens or not self._access.is_token(tokens[-1]):
            return self._refuse(401, _wrong(self._access, given=bool(tokens)))
        response = self._enter(_path(scope, [pair for pair in pairs if pair[0] != "token"]))
        response.set_cookie(
            self._access.cookie, self._access.key, httponly=True, samesite="strict", path="/"
        )
        return response


def refuse_bad_names(header: str, hosts: Iterable[str]) -> None:
    """Refuse invalid header and host names, and a header that every browser sends.

    Raises:
        ConfigError: The message has the remedy.
    """
    if header and not _HEADER.fullmatch(header):
        raise ConfigError(
            f"--trust-header {header!r}: not the name of a header: letters, digits and hyphens"
        )
    if header.lower() in _OF_BROWSERS or header.lower().startswith("sec-fetch-"):
        raise ConfigError(
            f"--trust-header {header}: every browser sends it, so that all would be let in: name "
            "one that only the proxy sets"
        )
    for host in hosts:
        if not _NAME.fullmatch(host):
            raise ConfigError(f"--allow-host {host!r}: give a name alone, without a port")


def _wrong(access: WebAccess, *, given: bool) -> str:
    if not access.token:
        return f"The proxy before this server has not set {access.header}."
    if given:
        return "This token is not the server's: agentpipe web printed the right one when it began."
    return "Open the address with the token that agentpipe web printed, or give the token here."


def _add_headers(message: Message) -> None:
    headers = MutableHeaders(scope=message)
    for name, value in HEADERS.items():
        headers.setdefault(name, value)
    headers.setdefault("cache-control", "no-store")


def _pairs(scope: Scope) -> list[tuple[str, str]]:
    return parse_qsl(scope["query_string"].decode("latin-1"), keep_blank_values=True)


def _path(scope: Scope, pairs: list[tuple[str, str]]) -> str:
    """The path with one leading slash; a browser would take ``//name`` for another host."""
    path = quote("/" + scope["path"].lstrip("/\\"))
    return f"{path}?{urlencode(pairs)}" if pairs else path


def _is_foreign(headers: Headers) -> bool:
    """Whether a script or frame of another site sent the request."""
    origin = headers.get("origin")
    if origin is not None and _place_of(origin) != headers.get("host", "").lower():
        return True
    site = headers.get("sec-fetch-site", "none")
    return site not in ("none", "same-origin") and headers.get("sec-fetch-mode") != "navigate"


def _place_of(origin: str) -> str:
    """The origin's host and port; empty for an invalid origin."""
    try:
        return urlsplit(origin).netloc.lower()
    except ValueError:
        return ""


def _name_of(host: str) -> str:
    """The host without its port, in lower case; empty for an invalid host."""
    found = _HOST.fullmatch(host)
    return (found["v6"] or found["name"]).lower() if found else ""


def _is_address(name: str) -> bool:
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _same(given: str, wanted: str) -> bool:
    return hmac.compare_digest(given.encode(errors="replace"), wanted.encode())

"""Requests to an ASGI web application without a socket, byte for byte as an attacker sends them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote

if TYPE_CHECKING:
    from starlette.types import ASGIApp

TOKEN = "a-token-of-these-tests"
BEARER = {"host": "127.0.0.1:9809", "authorization": f"Bearer {TOKEN}"}


@dataclass(frozen=True, slots=True)
class Answer:
    """A response; header names in lower case."""

    status: int
    headers: dict[str, str]
    body: bytes = field(repr=False)

    @property
    def text(self) -> str:
        """The body, decoded."""
        return self.body.decode()


def ask(
    app: ASGIApp, path: str, headers: dict[str, str] | None = None, method: str = "GET"
) -> Answer:
    """Send one request."""
    return asyncio.run(_ask(app, path, BEARER if headers is None else headers, method))


async def _ask(app: ASGIApp, path: str, headers: dict[str, str], method: str) -> Answer:
    place, _, query = path.partition("?")
    scope: dict[str, Any] = {
        "type": "http",
        "asgi": {"version": "3.0"},
        "http_version": "1.1",
        "method": method,
        "scheme": "http",
        "path": unquote(place),
        "raw_path": quote(place).encode(),
        "query_string": query.encode(),
        "root_path": "",
        "headers": [(name.lower().encode(), value.encode()) for name, value in headers.items()],
        "client": ("127.0.0.1", 50_000),
        "server": ("127.0.0.1", 9809),
    }
    sent: list[Any] = []

    async def receive() -> Any:
        await asyncio.sleep(0)
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        await asyncio.sleep(0)
        sent.append(message)

    await app(scope, receive, send)
    fields = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
    return Answer(sent[0]["status"], fields, b"".join(it.get("body", b"") for it in sent[1:]))

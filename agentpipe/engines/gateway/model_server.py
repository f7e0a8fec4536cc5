"""ModelServer: one model server and its key, as used by one run."""

from __future__ import annotations

from typing import TYPE_CHECKING

import httpx2

from agentpipe.engines.gateway.replies import JSON
from agentpipe.engines.models.credentials import header_value

if TYPE_CHECKING:
    from agentpipe.engines.gateway.upstreams import Upstream

_KEPT_URLS = 100  # A client can ask for any number of models.


class ModelServer:
    """Caches URLs and headers: building them in the client costs more than all else here."""

    def __init__(self, upstream: Upstream, client: httpx2.AsyncClient) -> None:
        self._upstream, self._client = upstream, client
        self._urls: dict[str, httpx2.URL] = {}
        self._headers: httpx2.Headers | None = None

    async def sent(self, url: str, content: bytes, method: str = "POST") -> httpx2.Response:
        """Send a request and return the response before its body is read.

        Raises:
            AgentFailed: The key is not valid in a header, or the server redirects elsewhere.
            HTTPError: No response.
        """
        headers = self._headers or self._made_headers()
        extensions = {"timeout": self._client.timeout.as_dict()}
        request = httpx2.Request(
            method, self._url(url), content=content, headers=headers, extensions=extensions
        )
        return await self._client.send(request, stream=True)

    def _url(self, text: str) -> httpx2.URL:
        if text not in self._urls:
            if len(self._urls) >= _KEPT_URLS:
                self._urls.clear()
            self._urls[text] = httpx2.URL(text)
        return self._urls[text]

    def _made_headers(self) -> httpx2.Headers:
        credential = self._upstream.protocol.headers(header_value(self._upstream.key))
        self._headers = httpx2.Headers({**self._client.headers, **JSON, **credential})
        return self._headers

"""The gateways of all runs on one event loop, behind one port."""

from __future__ import annotations

import asyncio
import hmac
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from agentpipe.core.background import in_background
from agentpipe.engines.gateway.error_bodies import error_body
from agentpipe.engines.gateway.http_server import HOST, LoopbackServer
from agentpipe.engines.gateway.replies import refuse

if TYPE_CHECKING:
    from agentpipe.engines.gateway.gateway_of_run import RunGateway
    from agentpipe.engines.gateway.http_server import Reply, Request

_PATH = "/t/"
UNKNOWN = "this URL and key are of no run: they are valid until their run ends"


class Gateways:
    """Finds a request's run by its URL or its key: some clients support only one of them."""

    def __init__(self) -> None:
        self._server = LoopbackServer(self._handle, self._refusal)
        self._by_name: dict[str, RunGateway] = {}
        self._requests: dict[RunGateway, set[asyncio.Task[None]]] = {}
        self._address = ""

    async def start(self) -> None:
        """Start listening."""
        self._address = f"http://{HOST}:{await self._server.start()}"

    def open(self, gateway: RunGateway) -> None:
        """Start serving a run."""
        gateway.base_url = f"{self._address}{_PATH}{gateway.name}"
        self._by_name[gateway.name] = gateway
        self._requests[gateway] = set()

    async def close(self, gateway: RunGateway) -> None:
        """Cancel a run's requests, and refuse later ones."""
        del self._by_name[gateway.name]
        requests = self._requests.pop(gateway)
        for request in requests:
            request.cancel()
        await asyncio.gather(*requests, return_exceptions=True)
        await gateway.close()

    def _refusal(self, head: Request) -> tuple[int, bytes] | None:
        """The refusal for a request that belongs to no run; None if it has one."""
        if self._found(head)[0] is not None:
            return None
        return (409 if head.path.startswith(_PATH) else 401), error_body(UNKNOWN)

    async def _handle(self, request: Request, reply: Reply) -> None:
        gateway, path = self._found(request)
        if gateway is None:  # Its run ended while the body was arriving.
            await refuse(reply, 409, UNKNOWN)
            return
        answering = asyncio.create_task(
            gateway.answer(request, path, reply), context=gateway.context
        )
        self._requests[gateway].add(answering)
        try:
            await answering
        finally:
            self._requests.get(gateway, set()).discard(answering)

    def _found(self, request: Request) -> tuple[RunGateway | None, str]:
        """The run, and the path below the run's base URL."""
        if request.path.startswith(_PATH):
            name, _, path = request.path.removeprefix(_PATH).partition("/")
            return self._by_name.get(name), f"/{path}"
        return self._of_key(_key_in(request)), request.path

    def _of_key(self, key: str) -> RunGateway | None:
        gateway = self._by_name.get(key.partition("-")[0])
        if gateway is None or not hmac.compare_digest(gateway.key.encode(), key.encode()):
            return None
        return gateway


def _key_in(request: Request) -> str:
    bearer = request.headers.get("authorization", "").removeprefix("Bearer ")
    return request.headers.get("x-api-key", "") or bearer


_of_loop: WeakKeyDictionary[asyncio.AbstractEventLoop, asyncio.Task[Gateways]] = WeakKeyDictionary()


async def shared_gateways() -> Gateways:
    """The listening gateways of the current event loop."""
    loop = asyncio.get_running_loop()
    if loop not in _of_loop:
        _of_loop[loop] = in_background(_started())
    return await asyncio.shield(_of_loop[loop])


async def _started() -> Gateways:
    gateways = Gateways()
    await gateways.start()
    return gateways

"""Exchange: a client's request for an answer of a model, and what the client received."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

    from agentpipe.engines.gateway.http_server import Reply
    from agentpipe.engines.gateway.model_calls import ModelCall
    from agentpipe.engines.policies import Route


@dataclass(frozen=True, slots=True)
class KeptReply:
    """What a client received, kept for a repeated request."""

    headers: Mapping[str, str]
    body: bytes

    async def send(self, reply: Reply) -> None:
        """Send it again."""
        await reply.whole(200, self.headers, self.body)


@dataclass(frozen=True, slots=True)
class Exchange:
    """A client's request in progress.

    Attributes:
        asked: The body that the client sent.
        sent: The body for the server.
        step: The data that its span records.
        route: The server and policy version to use.
    """

    asked: Mapping[str, Any]
    sent: Mapping[str, Any]
    call: ModelCall
    step: dict[str, Any]
    route: Route

    @property
    def model(self) -> str:
        """The model in the request."""
        return str(self.sent.get("model"))

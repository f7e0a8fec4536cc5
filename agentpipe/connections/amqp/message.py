"""OutgoingMessage: a message to publish. Declaration: a queue to make."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Agents run for up to an hour, and longer; from RabbitMQ 3.12 a queue may say so itself.
CONSUMER_TIMEOUT_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Declaration:
    """A queue and the arguments it is made with; they cannot be changed later."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to publish.

    Attributes:
        expires_ms: It leaves its queue after so long.
        lasting: Whether it survives a restart of the server.
        priority: AMQP's, where higher is first.
        mandatory: It comes back where no queue takes it.
    """

    key: str
    body: bytes
    headers: Mapping[str, Any]
    exchange: str = ""
    expires_ms: int | None = None
    lasting: bool = True
    priority: int | None = None
    mandatory: bool = True

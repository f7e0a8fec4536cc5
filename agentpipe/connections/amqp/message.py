"""OutgoingMessage: a message to publish. Declaration: a queue to create."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping

# Agents can run for an hour or longer. RabbitMQ 3.12 and later accept this timeout per queue.
CONSUMER_TIMEOUT_MS = 7 * 86_400_000


@dataclass(frozen=True, slots=True)
class Declaration:
    """A queue and its arguments, which cannot be changed later."""

    name: str
    arguments: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class OutgoingMessage:
    """A message to publish.

    Attributes:
        expires_ms: Time after which the message leaves its queue.
        lasting: Whether the message survives a server restart.
        priority: The AMQP priority; higher comes first.
        mandatory: Whether the server returns the message if no queue accepts it.
    """

    key: str
    body: bytes
    headers: Mapping[str, Any]
    exchange: str = ""
    expires_ms: int | None = None
    lasting: bool = True
    priority: int | None = None
    mandatory: bool = True

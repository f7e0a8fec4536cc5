"""Management: what RabbitMQ's management API tells of queues, where a URL names it.

Its figures are some seconds old.
"""

from __future__ import annotations

import urllib.error
import urllib.request
from base64 import b64encode
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

import orjson

from agentpipe.core.redaction import without_password
from agentpipe.errors import Unreachable

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.address import Address

TIMEOUT_S = 10.0
COLUMNS = "name,messages,message_bytes"


@dataclass(frozen=True, slots=True)
class QueueFigures:
    """One queue: its messages, those among them that are with a consumer, and their size."""

    messages: int
    size_bytes: int


def queue_figures(address: Address) -> dict[str, QueueFigures]:
    """Each queue of this fleet's prefix, by name.

    Raises:
        Unreachable: The API does not answer, or refuses the user.
    """
    vhost = quote(address.server.vhost, safe="")
    path = f"/api/queues/{vhost}?columns={COLUMNS}"
    return {
        record["name"]: QueueFigures(
            record.get("messages", 0),
            record.get("message_bytes", 0),
        )
        for record in _get(address, path)
        if record["name"].startswith(f"{address.names.prefix}.")
    }


def _get(address: Address, path: str) -> Any:
    return ask(address, path)[0]


def ask(address: Address, path: str) -> tuple[Any, str]:
    """What the API answers, and the server's time as HTTP has it.

    Raises:
        Unreachable: The API does not answer, or refuses the user.
    """
    parts = urlsplit(address.management)
    host = parts.netloc.rpartition("@")[2]
    user = unquote(parts.username or address.server.user)
    password = unquote(parts.password or address.server.password)
    request = urllib.request.Request(f"{parts.scheme}://{host}{parts.path.rstrip('/')}{path}")  # noqa: S310 - the user's own URL
    token = b64encode(f"{user}:{password}".encode()).decode()
    request.add_header("Authorization", f"Basic {token}")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S) as answer:  # noqa: S310 - likewise
            return orjson.loads(answer.read()), answer.headers.get("Date", "")
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", error)
        shown = without_password(address.management)
        raise Unreachable(
            f"{shown}: the management API does not answer ({reason}): "
            "correct ?management= in the broker's URL, or leave it out"
        ) from error

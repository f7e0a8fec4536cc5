"""StoreBroker: the Dramatiq broker over any Store.

It only sends: agentpipe's worker claims from the store, for all queues at once.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

import dramatiq
import orjson

from agentpipe.brokers import open_store
from agentpipe.brokers.records import Offer
from agentpipe.errors import AgentpipeError, QueueFull, TaskError
from agentpipe.sending.actor import AgentActor
from agentpipe.sending.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.sending.actor import AgentRunner
    from agentpipe.settings import Settings


class StoreBroker(dramatiq.Broker):
    """Sends through, and knows the actors of, one store.

    Attributes:
        store: Closed by ``close``.
    """

    def __init__(self, store: Store, middleware: list[dramatiq.Middleware]) -> None:
        super().__init__(middleware=middleware)
        self.store = store

    def declare_queue(self, queue_name: str) -> None:
        """Make the queue known to this process; its limits come with its actor."""
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def enqueue(
        self, message: dramatiq.Message[Any], *, delay: int | None = None
    ) -> dramatiq.Message[Any]:
        """Offer one message to its own queue; ``delay`` is in milliseconds.

        Raises:
            QueueFull: The queue is at its bound; nothing was stored.
        """
        self.emit_before("enqueue", message, delay)
        fields = self._fields(message)
        offer = Offer(
            message.message_id,
            _encoded(message.actor_name, fields),
            priority=message.options.get("priority", 0),
            delay_s=(delay or 0) / 1000,
            group_id=fields.get("group_id"),
        )
        admission = self.store.offer(message.queue_name, [offer], round_robin=False)
        if "refused" in admission.verdicts:
            raise QueueFull(message.queue_name, admission.depth, admission.bound)
        self.emit_after("enqueue", message, delay)
        return message

    def _fields(self, message: dramatiq.Message[Any]) -> dict[str, Any]:
        """What the store keeps: an agent's Task, or a plain actor's message as Dramatiq has it."""
        if isinstance(self.actors.get(message.actor_name), AgentActor):
            task: dict[str, Any] = message.args[0]
            return task
        fields = message.asdict()
        del fields["queue_name"]  # The store knows it.
        return fields

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> NoReturn:  # noqa: ARG002 - Dramatiq's signature
        """Refuse: one consumer serves all queues, see ``agentpipe.worker``."""
        raise AgentpipeError(
            f"{queue_name}: this broker is served by agentpipe's worker; "
            "run `agentpipe work` or `dramatiq agentpipe.actors`"
        )

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def _encoded(actor_name: str, fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError as error:
        raise TaskError(f"{actor_name}: what is sent to an actor must be JSON: {error}") from error


def sender_broker(collections: Sequence[Collection], settings: Settings) -> StoreBroker:
    """A broker whose actors only send: it needs the collections' names and limits, no agent.

    Raises:
        ConfigError: The broker's URL is wrong.
        Unreachable: The store does not answer.
    """
    return declared_broker(open_store(settings), [], collections, {})


def declared_broker(
    store: Store,
    middleware: list[dramatiq.Middleware],
    collections: Sequence[Collection],
    runners: Mapping[str, AgentRunner],
) -> StoreBroker:
    """A broker over ``store`` with an actor for each agent of ``collections``."""
    dispatcher = Dispatcher(store)
    broker = StoreBroker(store, [dispatcher, *middleware])
    dispatcher.declare(collections)
    for collection in collections:
        for spec in collection.agents:
            AgentActor(collection, spec, broker, runners.get(spec.queue))
    return broker

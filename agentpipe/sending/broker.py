"""StoreBroker: the Dramatiq broker over any Store, and its messages.

Delivery is not here: agentpipe's worker claims from the store for all queues at once.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, NoReturn

import dramatiq
import orjson

from agentpipe.brokers import open_store
from agentpipe.brokers.records import Claim, Offer, Settlement
from agentpipe.core.task import Task
from agentpipe.errors import AgentpipeError, FormatError, QueueFull, TaskError
from agentpipe.sending.actor import AgentActor
from agentpipe.sending.dispatcher import Dispatcher

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.core.trace import Tracer
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
            QueueFull: It is at its bound; nothing was stored.
        """
        self.emit_before("enqueue", message, delay)
        offer = Offer(
            message.message_id,
            self._payload(message),
            priority=message.options.get("priority", 0),
            delay_s=(delay or 0) / 1000,
        )
        admission = self.store.offer(message.queue_name, [offer], round_robin=False)
        if "refused" in admission.verdicts:
            raise QueueFull(message.queue_name, admission.depth, admission.bound)
        self.emit_after("enqueue", message, delay)
        return message

    def _payload(self, message: dramatiq.Message[Any]) -> bytes:
        """What the store keeps: an agent's Task, or a plain actor's message as Dramatiq has it."""
        fields = message.asdict()
        del fields["queue_name"]  # The store knows it.
        if isinstance(self.actors.get(message.actor_name), AgentActor):
            fields = message.args[0]
        try:
            return orjson.dumps(fields)
        except TypeError as error:
            raise TaskError(
                f"{message.actor_name}: what is sent to an actor must be JSON: {error}"
            ) from error

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> NoReturn:  # noqa: ARG002 - Dramatiq's signature
        """Refuse: one consumer serves all queues, see ``agentpipe.worker``."""
        raise AgentpipeError(
            f"{queue_name}: this broker is served by agentpipe's worker; "
            "run `agentpipe work` or `dramatiq agentpipe.actors`"
        )

    def close(self) -> None:
        """Close the store."""
        self.store.close()


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


class ClaimedMessage(dramatiq.MessageProxy):
    """A message on its way through this worker, with what became of it.

    Attributes:
        task: None for a message of a plain Dramatiq actor, or one that cannot be read.
        problem: Why it cannot be read.
        started_at: Unix seconds.
        settlement: Put here by the Results middleware, carried out by the consumer.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim = claim
        self.task: Task | None = None
        self.problem: FormatError | None = None
        self.started_at = time.time()
        self.tracer: Tracer | None = None
        self.settlement: Settlement | None = None
        try:
            message = self._read(claim)
        except FormatError as error:
            self.problem = error
            message = _addressed(claim, ())
        super().__init__(message)

    def _read(self, claim: Claim) -> dramatiq.Message[Any]:
        fields = _parse(claim.payload)
        if "actor_name" in fields:
            return _foreign(claim, fields)
        self.task = Task.decode(fields)
        return _addressed(claim, (fields,))


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the message is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise FormatError(f"the message is no object but a {type(fields).__name__}")
    return fields


def _addressed(claim: Claim, args: tuple[Any, ...]) -> dramatiq.Message[Any]:
    return dramatiq.Message(
        queue_name=claim.queue,
        actor_name=claim.queue,
        args=args,
        kwargs={},
        options={},
        message_id=claim.task_id,
        message_timestamp=int(claim.submitted_at * 1000),
    )


_FOREIGN: dict[str, type] = {
    "actor_name": str,
    "args": list,
    "kwargs": dict,
    "options": dict,
    "message_id": str,
    "message_timestamp": int,
}


def _foreign(claim: Claim, fields: dict[str, Any]) -> dramatiq.Message[Any]:
    wrong = [name for name, kind in _FOREIGN.items() if not isinstance(fields.get(name), kind)]
    if wrong:
        raise FormatError(f"not a Dramatiq message: {', '.join(wrong)} missing or of another type")
    known = {name: fields[name] for name in _FOREIGN}
    return dramatiq.Message(**known, queue_name=claim.queue)

"""StoreBroker: the Dramatiq broker over any Store.

It only sends: agentpipe's worker claims from the store, for all queues at once.
"""

from __future__ import annotations

import logging
import math
import time
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, NoReturn

import dramatiq
import orjson
from dramatiq.errors import QueueJoinTimeout, QueueNotFound
from dramatiq.results import Results

from agentpipe.brokers import open_store
from agentpipe.brokers.records import Offer
from agentpipe.brokers.statistics import is_idle
from agentpipe.core.json_values import JsonRules
from agentpipe.core.outside import ORJSON_DEPTH
from agentpipe.errors import AgentpipeError, OptionError, QueueFull, TaskError
from agentpipe.sending.actor import AgentActor, refuse_agents_as_callbacks
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.sending.message_options import (
    OF_ACTORS,
    check_actor,
    check_delay,
    check_message,
    following,
    name_callbacks,
    named,
)
from agentpipe.sending.plain_queues import PlainQueues
from agentpipe.sending.purge import purge_queues
from agentpipe.sending.refused_middleware import refuse

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from agentpipe.brokers.base import Store
    from agentpipe.config.collection import Collection
    from agentpipe.sending.actor import AgentRunner
    from agentpipe.settings import Settings


LOOK_EVERY_S = 0.02
MESSAGES = JsonRules(ORJSON_DEPTH, other_types=False, nul=True)
# The ids that ``StoreBroker.taking`` takes, and what it has taken.
_taking: ContextVar[tuple[frozenset[str], list[tuple[str, Offer]]]] = ContextVar(
    "agentpipe_taking", default=(frozenset(), [])
)

log = logging.getLogger(__name__)


def _is_true_here(record: logging.LogRecord) -> bool:
    """Dramatiq's warning that an answer is discarded: here each answer goes to the stream."""
    return "the value has been discarded" not in str(record.msg)


class StoreBroker(dramatiq.Broker):
    """Sends to one store, and knows its actors.

    Attributes:
        store: Closed by ``close``.
        at_boot: Called with errors of modules that `dramatiq` imports; its traceback would hide
            them.
    """

    at_boot: Callable[[AgentpipeError], None] | None = None

    def __init__(self, store: Store, middleware: list[dramatiq.Middleware]) -> None:
        self._booted = False
        self._plain_queues = PlainQueues()
        super().__init__(middleware=middleware)
        self.actor_options |= OF_ACTORS.keys()
        self.store = store

    def add_middleware(
        self,
        middleware: dramatiq.Middleware,
        *,
        before: type[dramatiq.Middleware] | None = None,
        after: type[dramatiq.Middleware] | None = None,
    ) -> None:
        """Add a middleware that works here.

        Raises:
            ConfigError: It would break what runs here; the message says what to use instead.
        """
        with self._said_at_boot():
            refuse(middleware)
        super().add_middleware(middleware, before=before, after=after)
        if isinstance(middleware, Results):
            middleware.logger.addFilter(_is_true_here)
        if self._booted:
            # `dramatiq` imports users' modules after this signal, so their middleware missed it.
            middleware.after_process_boot(self)

    def emit_after(self, signal: str, *args: Any, **kwargs: Any) -> None:
        """Emit the signal, and remember that the process has booted."""
        self._booted = self._booted or signal == "process_boot"
        if signal == "worker_boot":
            self.at_boot = None
        super().emit_after(signal, *args, **kwargs)

    @contextmanager
    def _said_at_boot(self) -> Iterator[None]:
        try:
            yield
        except AgentpipeError as error:
            if self.at_boot is not None:
                self.at_boot(error)
            raise

    def declare_actor(self, actor: dramatiq.Actor[..., Any]) -> None:
        """Declare an actor; if it is in no collection, also declare its queue in the store.

        Raises:
            OptionError: An option is wrong, or contradicts another actor of the queue.
            Unreachable: The store does not answer.
        """
        if not isinstance(actor, AgentActor):
            with self._said_at_boot():
                check_actor(actor)
                place = f"actor {actor.actor_name}"
                refuse_agents_as_callbacks(place, actor.options, self.actors)
                self._refuse_queue_of_agent(actor)
            actor.options = named(actor.options)
            self.store.declare([self._plain_queues.with_actor(actor)])
        self._know_queue(actor.queue_name)
        super().declare_actor(actor)

    def _refuse_queue_of_agent(self, actor: dramatiq.Actor[..., Any]) -> None:
        others = [it for it in self.actors.values() if it.queue_name == actor.queue_name]
        if any(isinstance(it, AgentActor) for it in others):
            raise OptionError(
                f"actor {actor.actor_name}: the queue {actor.queue_name!r} is an agent's: "
                "give it another queue_name"
            )

    def declare_queue(self, queue_name: str) -> None:
        """Declare a queue; its limits can follow later, with its actors.

        Raises:
            Unreachable: The store does not answer.
        """
        if queue_name not in self.queues:
            self.store.declare([self._plain_queues.of(queue_name)])
            self._know_queue(queue_name)

    def _know_queue(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            self.emit_before("declare_queue", queue_name)
            self.queues[queue_name] = None
            self.emit_after("declare_queue", queue_name)

    def enqueue(
        self, message: dramatiq.Message[Any], *, delay: int | None = None
    ) -> dramatiq.Message[Any]:
        """Offer one message to its queue; ``delay`` is in milliseconds.

        Raises:
            QueueFull: The queue is at its bound; nothing was stored.
            QueueNotFound: No process has declared the queue.
            OptionError: An option is wrong, or would have no effect.
            TaskError: The message is not a task, or not JSON.
        """
        self.check(message)
        check_delay(message, delay)
        name_callbacks(message)
        self.emit_before("enqueue", message, delay)
        offer = self.offer_of(message, delay)
        ids, taken = _taking.get()
        if message.message_id in ids:
            taken.append((message.queue_name, offer))
        else:
            self._offer(message, offer)
        self.emit_after("enqueue", message, delay)
        return message

    @contextmanager
    def taking(self, ids: frozenset[str]) -> Iterator[list[tuple[str, Offer]]]:
        """Collect messages with these ids instead of sending them; yield them with their queues."""
        taken: list[tuple[str, Offer]] = []
        token = _taking.set((ids, taken))
        try:
            yield taken
        finally:
            _taking.reset(token)

    def _offer(self, message: dramatiq.Message[Any], offer: Offer) -> None:
        admission = self.store.offer(message.queue_name, [offer], round_robin=False)
        if "duplicate" in admission.verdicts:
            log.warning(
                "%s: %s: the id was sent before: not sent again",
                message.actor_name,
                message.message_id,
            )
        if "refused" in admission.verdicts:
            if not admission.bound:
                raise QueueNotFound(message.queue_name)  # type: ignore[no-untyped-call]  # Dramatiq has no types
            raise QueueFull(message.queue_name, admission.depth, admission.bound)

    def check(
        self,
        message: dramatiq.Message[Any] | dramatiq.MessageProxy,
        *,
        hooked: Iterable[str] = (),
    ) -> None:
        """Check the options of a message, and of the messages that follow it.

        ``hooked`` are options that hooks of the sender's middleware can have set.

        Raises:
            OptionError: An option is wrong, or would have no effect.
        """
        actor = self.actors.get(message.actor_name)
        known = {*self.actor_options, *hooked}
        check_message(message, known, is_agent=isinstance(actor, AgentActor))
        place = f"message to {message.actor_name}"
        refuse_agents_as_callbacks(place, message.options, self.actors)
        if actor:  # It can have been declared before the agent that it names.
            refuse_agents_as_callbacks(f"actor {actor.actor_name}", actor.options, self.actors)
        for each in following(message):
            self.check(each)

    def offer_of(self, message: dramatiq.Message[Any], delay: float | None) -> Offer:
        """The store's offer for a message; ``delay`` is in milliseconds.

        Raises:
            TaskError: The message is not a task, or not JSON.
        """
        actor = self.actors.get(message.actor_name)
        fields = self._fields(message, actor)
        return Offer(
            message.message_id,
            _encoded(message.actor_name, fields),
            priority=message.options.get("priority", actor.priority if actor else 0),
            delay_s=max(delay or 0, 0) / 1000,
            group_id=fields.get("group_id"),
        )

    def _fields(
        self, message: dramatiq.Message[Any], actor: dramatiq.Actor[..., Any] | None
    ) -> dict[str, Any]:
        """What the store keeps: an agent's Task, or a plain actor's message as in Dramatiq."""
        if isinstance(actor, AgentActor):
            options = {name: it for name, it in message.options.items() if name != "priority"}
            _refuse_unlike_json(message.actor_name, options)
            return {**actor.task_of(message), **({"dramatiq": options} if options else {})}
        fields = message.asdict()
        del fields["queue_name"]  # The store knows it.
        _refuse_unlike_json(message.actor_name, fields)
        return fields

    def join(self, queue_name: str, *, timeout: int | None = None) -> None:
        """Wait until no message of the queue waits, is delayed or runs; for tests.

        Raises:
            QueueNotFound: The queue was never declared.
            QueueJoinTimeout: It took longer than ``timeout`` milliseconds.
        """
        self._refuse_unknown(queue_name)
        ends_at = math.inf if timeout is None else time.monotonic() + timeout / 1000
        while not is_idle(self.store.stats(), queue_name):
            if time.monotonic() >= ends_at:
                raise QueueJoinTimeout(queue_name)  # type: ignore[no-untyped-call]  # Dramatiq has no types
            time.sleep(LOOK_EVERY_S)

    def flush(self, queue_name: str) -> None:
        """Answer all waiting and delayed messages of the queue with ``cancelled``.

        Raises:
            QueueNotFound: The queue was never declared.
            ConfigError: The broker cannot read its queues.
        """
        self._refuse_unknown(queue_name)
        purge_queues(self.store, [queue_name])

    def flush_all(self) -> None:
        """Flush all queues that this process has declared; see ``flush``.

        Raises:
            ConfigError: The broker cannot read its queues.
        """
        if self.queues:
            purge_queues(self.store, list(self.queues))

    def _refuse_unknown(self, queue_name: str) -> None:
        if queue_name not in self.queues:
            raise QueueNotFound(queue_name)  # type: ignore[no-untyped-call]  # Dramatiq has no types

    def consume(self, queue_name: str, prefetch: int = 1, timeout: int = 30000) -> NoReturn:  # noqa: ARG002 - Dramatiq's signature
        """Refuse: one consumer serves all queues, see ``agentpipe.worker``."""
        raise AgentpipeError(
            f"{queue_name}: this broker is served by agentpipe's worker; "
            "run `agentpipe work` or `dramatiq agentpipe.actors`"
        )

    def close(self) -> None:
        """Close the store."""
        self.store.close()


def _refuse_unlike_json(actor_name: str, fields: dict[str, Any]) -> None:
    """Refuse values that JSON would change: the actor would get something different."""
    if flaw := MESSAGES.flaw(fields):
        raise TaskError(f"{actor_name}: what is sent to an actor must be JSON: {flaw}")


def _encoded(actor_name: str, fields: dict[str, Any]) -> bytes:
    try:
        return orjson.dumps(fields)
    except TypeError as error:
        raise TaskError(f"{actor_name}: what is sent to an actor must be JSON: {error}") from error


def sender_broker(collections: Sequence[Collection], settings: Settings) -> StoreBroker:
    """A broker whose actors only send: it needs names and limits of collections, no agents.

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
    dispatcher.declare(collections, serves=bool(runners))
    for collection in collections:
        config_hash = dispatcher.hash_of(collection.name)
        rules = dispatcher.rules_of(collection.name)
        if runners and rules.servers:
            rules.servers.settle()
        for spec in collection.agents:
            AgentActor(collection, spec, broker, runners.get(spec.queue), config_hash, rules=rules)
    return broker

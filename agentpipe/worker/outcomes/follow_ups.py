"""Follow-ups: messages sent at a message's end: its pipeline's next message, and callbacks.

Each is offered before the end is settled and always has the same id. A worker that dies between the
two steps therefore sends nothing twice and loses nothing.
"""

from __future__ import annotations

import uuid
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dramatiq
from dramatiq.errors import ActorNotFound
from dramatiq.middleware import GroupCallbacks

from agentpipe.core.failures import error_kind, error_text
from agentpipe.errors import AgentpipeError, OptionError
from agentpipe.sending.actor import AgentActor, flaw_of_callback
from agentpipe.sending.message_options import CALLBACKS
from agentpipe.worker.running.plain_failures import most_retries

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.records import Offer
    from agentpipe.sending.broker import StoreBroker
    from agentpipe.worker.running.message import ClaimedMessage

# Options of Dramatiq's results middleware: the sender waits for what it stores.
_OF_RESULTS = frozenset({"store_results", "result_ttl"})
_IDS = uuid.UUID("5d0d3c0c-5bb0-4f63-9a5e-0a4a5b5f3a77")


def sends_nothing(broker: StoreBroker, message: ClaimedMessage) -> bool:
    """Whether neither the message nor its actor requests a follow-up."""
    options = message.options
    asks = "pipe_target" in options or not options.keys().isdisjoint(CALLBACKS)
    return not (asks or _has_callbacks(broker, message))


def of_success(broker: StoreBroker, message: ClaimedMessage, value: Any) -> list[tuple[str, Offer]]:
    """Follow-ups of a message that returned ``value``.

    Raises:
        AgentpipeError: The value cannot be sent there.
    """
    messages = [*_pipe_target(broker, message, value)]
    messages += _callback(broker, message, "on_success", value)
    return [_follow_up(broker, message, each) for each in messages]


def of_failure(
    broker: StoreBroker, message: ClaimedMessage, error: BaseException, *, exhausted: bool
) -> list[tuple[str, Offer]]:
    """Follow-ups of a message that failed with ``error``; ``exhausted``: it has no retries left.

    Raises:
        AgentpipeError: A follow-up cannot be sent there.
    """
    about = {"type": error_kind(error), "message": error_text(error)}
    messages = [*_callback(broker, message, "on_failure", about)]
    if exhausted:
        most = most_retries(message, broker.actors.get(message.actor_name))
        counts = {"retries": message.retries, "max_retries": most}
        messages += _callback(broker, message, "on_retry_exhausted", counts)
    return [_follow_up(broker, message, each) for each in messages]


def of_group(message: ClaimedMessage) -> frozenset[str]:
    """Ids of the callbacks that ``GroupCallbacks`` sends once the whole group has ended."""
    callbacks = message.options.get("group_completion_callbacks") or ()
    return frozenset(each.get("message_id", "") for each in callbacks)


def what_is_wrong(broker: StoreBroker, message: ClaimedMessage) -> str:
    """Why this worker cannot carry out the message's options; empty if it can."""
    try:
        if message.options:
            broker.check(message, hooked=message.options.keys() - _OF_RESULTS)
    except OptionError as error:
        return str(error)
    if "group_completion_uuid" in message.options and not _calls_groups_back(broker):
        return "the group has callbacks, and this worker's broker has no GroupCallbacks middleware"
    return _unknown_callback(broker, message)


def _calls_groups_back(broker: StoreBroker) -> bool:
    return any(isinstance(it, GroupCallbacks) for it in broker.middleware)


def _unknown_callback(broker: StoreBroker, message: ClaimedMessage) -> str:
    if message.options.keys().isdisjoint(CALLBACKS) and not _has_callbacks(broker, message):
        return ""
    flaws = (_flaw_of_callback(broker, message, option) for option in CALLBACKS)
    return next(filter(None, flaws), "")


def _has_callbacks(broker: StoreBroker, message: ClaimedMessage) -> bool:
    actor = broker.actors.get(message.actor_name)
    return actor is not None and not actor.options.keys().isdisjoint(CALLBACKS)


def _flaw_of_callback(broker: StoreBroker, message: ClaimedMessage, option: str) -> str:
    name = _option(broker, message, option)
    if name is None:
        return ""
    if not isinstance(name, str) or name not in broker.actors:
        return f"{option}: no actor {name!r:.200} is known to this worker"
    return flaw_of_callback(option, broker.actors[name])


def offer_all(store: Store, messages: Iterable[ClaimedMessage]) -> None:
    """Offer the follow-ups of these messages, once: some stores remember no ids.

    Marks messages whose target queue is undeclared.

    Raises:
        Unreachable: The store does not answer; call again.
    """
    for message in messages:
        for queue, offer in message.follow_ups:
            if "refused" in store.offer(queue, [offer], round_robin=False).verdicts:
                message.stranded = f"no process has declared the queue {queue!r}"
        message.follow_ups = []


def _option(broker: StoreBroker, message: ClaimedMessage, name: str) -> Any:
    return message.options.get(name) or _of_actor(broker, message, name)


def _of_actor(broker: StoreBroker, message: ClaimedMessage, name: str) -> Any:
    actor = broker.actors.get(message.actor_name)
    return actor.options.get(name) if actor else None


def _pipe_target(
    broker: StoreBroker, message: ClaimedMessage, value: Any
) -> Iterator[dramatiq.Message[Any]]:
    if (fields := message.options.get("pipe_target")) is None:
        return
    target: dramatiq.Message[Any] = dramatiq.Message(**fields)
    # As in Dramatiq: set on the next message, or on the actor before it.
    if target.options.get("pipe_ignore") or _of_actor(broker, message, "pipe_ignore"):
        yield target
    else:
        yield target.copy(args=(*target.args, _piped(broker, target, value)))


def _piped(broker: StoreBroker, target: dramatiq.Message[Any], value: Any) -> Any:
    """The target's argument; an agent would take an object with a schema for a checked task."""
    if isinstance(value, dict) and isinstance(broker.actors.get(target.actor_name), AgentActor):
        return {name: item for name, item in value.items() if name != "schema"}
    return value


def _callback(
    broker: StoreBroker, message: ClaimedMessage, option: str, about: Any
) -> Iterator[dramatiq.Message[Any]]:
    name = _option(broker, message, option)
    # A forged message can have been refused because of this callback.
    if name and not _flaw_of_callback(broker, message, option):
        made = broker.get_actor(name).message_with_options(args=(message.asdict(), about))
        number = f"{message.message_id}/{option}/{message.retries}"
        yield replace(made, message_id=str(uuid.uuid5(_IDS, number)))


def _follow_up(
    broker: StoreBroker, ended: ClaimedMessage, message: dramatiq.Message[Any]
) -> tuple[str, Offer]:
    delay = message.options.get("delay")
    try:
        broker.check(message)
        broker.emit_before("enqueue", message, delay)
        offer = broker.offer_of(message, delay)
    except (AgentpipeError, ActorNotFound) as error:
        raise AgentpipeError(f"what follows it cannot be sent: {error}") from error
    broker.emit_after("enqueue", message, delay)
    return message.queue_name, unbounded(ended, offer)


def unbounded(ended: ClaimedMessage, offer: Offer) -> Offer:
    """Return the follow-up without a queue limit: it is never refused for lack of room.

    It is identical whichever worker ends the message: a store that remembers no ids shows it as one
    submission.
    """
    return replace(offer, bounded=False, made_at=ended.claim.submitted_at)

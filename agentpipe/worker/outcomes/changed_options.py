"""Changed options: what middleware hooks wrote into a message's options, kept for its retry.

As in Dramatiq, where a retry sends the message as it is by then.
"""

from __future__ import annotations

import logging
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import dramatiq
import orjson

from agentpipe.core.task import MAX_CARRIED_BYTES
from agentpipe.errors import OptionError
from agentpipe.sending.broker import MESSAGES

if TYPE_CHECKING:
    from agentpipe.brokers.records import Settlement
    from agentpipe.sending.broker import StoreBroker
    from agentpipe.worker.running.message import ClaimedMessage

# Counted by the store; the payload keeps the number with which the message was sent.
_COUNTED = "retries"

log = logging.getLogger(__name__)


def with_options(
    broker: StoreBroker, message: ClaimedMessage, settlement: Settlement
) -> Settlement:
    """The settlement of a retry, with the message's current options in the task's payload.

    An option that is not JSON, or that the next run would refuse, stays as it was; the log says so.
    """
    fields = orjson.loads(settlement.payload or message.claim.payload)
    place = "options" if message.task is None else "dramatiq"
    sent = fields.get(place) or {}
    options = _kept(broker, message, sent)
    if options == sent:
        return settlement
    payload = orjson.dumps({**fields, place: options})
    if len(payload) > MAX_CARRIED_BYTES:
        log.warning("options set by hooks are too large for a retry", extra=message.log_extra)
        return settlement
    return replace(settlement, payload=payload)


def _kept(broker: StoreBroker, message: ClaimedMessage, sent: dict[str, Any]) -> dict[str, Any]:
    """The options of the next run: what was sent, with the changes that can be kept."""
    kept = {name: sent[name] for name in sent if name == _COUNTED or name in message.options}
    for name, value in message.options.items():
        if name == _COUNTED or (name in sent and sent[name] == value):
            continue
        if flaw := MESSAGES.flaw(value, name) or _refusal(broker, message, name, value):
            log.warning("not kept for the retry: %s", flaw, extra=message.log_extra)
        else:
            kept[name] = value
    return kept


def _refusal(broker: StoreBroker, message: ClaimedMessage, name: str, value: Any) -> str:
    """Why the next run would not get or not take the option; empty if it would."""
    alone: dramatiq.Message[Any] = dramatiq.Message(
        **{**message.asdict(), "options": {name: value}}
    )
    try:
        orjson.dumps(value)
        broker.check(alone, hooked={name})
    except (OptionError, TypeError) as error:
        return f"{name}: {error}" if isinstance(error, TypeError) else str(error)
    return ""

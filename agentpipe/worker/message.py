"""ClaimedMessage: a claimed task as a Dramatiq message, on its way through this worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dramatiq
import orjson

from agentpipe.core.task import Task, kind_of
from agentpipe.core.thread_marks import NO_RUN
from agentpipe.errors import FormatError

if TYPE_CHECKING:
    from agentpipe.brokers.records import Claim, Settlement
    from agentpipe.core.trace import Tracer
    from agentpipe.errors import Cancelled, Interrupted


class ClaimedMessage(dramatiq.MessageProxy):
    """A message on its way through this worker, with what became of it.

    Attributes:
        task: None for a message of a plain Dramatiq actor, or one that cannot be read.
        problem: Why it cannot be read.
        started_at: Unix seconds.
        begun_at: When its run began, on the monotonic clock; None before.
        ended_by: What ends its run from outside, if anything does.
        place: Where the worker's last word has its claim.
        settlement: Set by the Results middleware, passed to the store by the consumer.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim, self.place = claim, NO_RUN
        self.task: Task | None = None
        self.problem: FormatError | None = None
        self.started_at = time.time()
        self.begun_at: float | None = None
        self.tracer: Tracer | None = None
        self.ended_by: Cancelled | Interrupted | None = None
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
            return _plain(claim, fields)
        self.task = Task.decode(fields)
        return _addressed(claim, (fields,))


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the message is not JSON: {error}") from error
    if not isinstance(fields, dict):
        raise FormatError(f"the message is not an object but {kind_of(fields)}")
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


# Of a plain Dramatiq actor.
_PLAIN: dict[str, type] = {
    "actor_name": str,
    "args": list,
    "kwargs": dict,
    "options": dict,
    "message_id": str,
    "message_timestamp": int,
}


def _plain(claim: Claim, fields: dict[str, Any]) -> dramatiq.Message[Any]:
    wrong = [name for name, kind in _PLAIN.items() if not isinstance(fields.get(name), kind)]
    if wrong:
        raise FormatError(f"not a Dramatiq message: {', '.join(wrong)} missing or of another type")
    known = {name: fields[name] for name in _PLAIN}
    return dramatiq.Message(**known, queue_name=claim.queue)

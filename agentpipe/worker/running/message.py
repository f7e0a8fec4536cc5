"""ClaimedMessage: a claimed task as a Dramatiq message, while this worker handles it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dramatiq
import orjson

from agentpipe.core.logs import Bound
from agentpipe.core.numbers import is_integer
from agentpipe.core.outside import ORJSON_DEPTH, is_deep
from agentpipe.core.task import Task
from agentpipe.core.task_fields import kind_of
from agentpipe.core.thread_marks import NO_RUN
from agentpipe.errors import FormatError

if TYPE_CHECKING:
    import contextvars

    from agentpipe.brokers.records import Claim, Offer, Settlement
    from agentpipe.core.agent_thread import AgentThread
    from agentpipe.core.trace import Tracer
    from agentpipe.errors import Cancelled, Interrupted
    from agentpipe.worker.running.runner import Completed

# More than any task fails; the sum with a store's own count stays within 64 bits.
MAX_RETRIES = 2**31


class ClaimedMessage(dramatiq.MessageProxy):
    """A message that this worker handles, with its outcome.

    Attributes:
        task: None for a message of a plain Dramatiq actor, or an unreadable one.
        problem: Why it is unreadable.
        started_at: When it was claimed, later when its run began, in Unix seconds.
        begun_at: When its run began, on the monotonic clock; None before.
        ended_by: Why its run is ended from outside, if it is.
        place: Index of its claim in the worker's last word.
        retries: Runs that failed before this one.
        answered: The agent's answer, without verdicts, while evaluators judge it.
        completed: The output of its run.
        context: Context for its code in threads; None without threads.
        thread: The run's own thread, if it has one.
        settlement: Set by the Results middleware, passed to the store by the consumer.
        follow_ups: Pairs of queue and offer to send before it is settled.
        stranded: Why some follow-ups could not be sent.
    """

    def __init__(self, claim: Claim) -> None:
        self.claim, self.place = claim, NO_RUN
        self.task: Task | None = None
        self.problem: FormatError | None = None
        self.started_at = time.time()
        self.begun_at: float | None = None
        self.tracer: Tracer | None = None
        self.ended_by: Cancelled | Interrupted | None = None
        self.answered: Completed | None = None
        self.completed: Completed | None = None
        self.context: contextvars.Context | None = None
        self.thread: AgentThread | None = None
        self.settlement: Settlement | None = None
        self.follow_ups: list[tuple[str, Offer]] = []
        self.stranded = ""
        try:
            message = self._read(claim)
        except FormatError as error:
            self.problem = error
            message = _addressed(claim, (), {})
        super().__init__(message)
        # As own attributes, to avoid a proxy lookup on each access.
        self.actor_name, self.options = message.actor_name, message.options
        self.retries: int = message.options.get("retries", 0) + claim.failures
        if self.retries:
            message.options["retries"] = self.retries

    @property
    def error(self) -> BaseException | None:
        """Why it failed or was skipped, without secrets."""
        return self._exception

    @property
    def log_extra(self) -> dict[str, Bound]:
        """The logger's ``extra`` that binds log lines to this message."""
        return {"bound": Bound(self.message_id, self.claim.queue)}

    def note_answer(self, answered: Completed) -> None:
        """Keep the agent's answer: whatever ends the run from now on must not lose it."""
        self.answered = answered

    def count_retry(self) -> None:
        """Count the failure in the options, as Dramatiq does before its other signals."""
        self.options["retries"] = self.retries + 1

    def _read(self, claim: Claim) -> dramatiq.Message[Any]:
        fields = _parse(claim.payload)
        if "actor_name" in fields:
            return _plain(claim, fields)
        task = Task.decode(fields, shared=True)  # User code gets copies.
        options = dict(fields.pop("dramatiq", None) or {})
        _refuse_wrong_retries(options)
        self.task = task
        return _addressed(claim, (fields,), options)


def _parse(payload: bytes) -> dict[str, Any]:
    try:
        fields = orjson.loads(payload)
    except orjson.JSONDecodeError as error:
        raise FormatError(f"the message is not JSON: {error}") from error
    if is_deep(payload, fields, ORJSON_DEPTH):
        raise FormatError(f"the message is nested deeper than {ORJSON_DEPTH} levels")
    if not isinstance(fields, dict):
        raise FormatError(f"the message is not an object but {kind_of(fields)}")
    return fields


def _addressed(
    claim: Claim, args: tuple[Any, ...], options: dict[str, Any]
) -> dramatiq.Message[Any]:
    return dramatiq.Message(
        queue_name=claim.queue,
        actor_name=claim.queue,
        args=args,
        kwargs={},
        options=options,
        message_id=claim.task_id,
        message_timestamp=int(claim.submitted_at * 1000),
    )


# Fields of a plain Dramatiq message.
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
    _refuse_wrong_retries(fields["options"])
    known = {name: fields[name] for name in _PLAIN}
    return dramatiq.Message(**known, queue_name=claim.queue)


def _refuse_wrong_retries(options: dict[str, Any]) -> None:
    """Raise for the option that is read before anything else looks at the message."""
    retries = options.get("retries", 0)
    if not is_integer(retries) or not 0 <= retries <= MAX_RETRIES:
        raise FormatError("the message's option retries is not a number of runs")

"""ClaimedMessage: a claimed task as a Dramatiq message, on its way through this worker."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

import dramatiq
import orjson

from agentpipe.core.logs import Bound
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


class ClaimedMessage(dramatiq.MessageProxy):
    """A message on its way through this worker, with what became of it.

    Attributes:
        task: None for a message of a plain Dramatiq actor, or one that cannot be read.
        problem: Why it cannot be read.
        started_at: Unix seconds.
        begun_at: When its run began, on the monotonic clock; None before.
        ended_by: What ends its run from outside, if anything does.
        place: Where the worker's last word has its claim.
        retries: Runs that failed before this one.
        answered: What its agent gave, without verdicts: evaluators judge it now.
        completed: What its run gave.
        context: In which its code in threads runs; None without any.
        thread: That of a run which has one to itself.
        settlement: Set by the Results middleware, passed to the store by the consumer.
        follow_ups: What is sent before it is settled: to which queue, and what.
        stranded: Why some of that could not be sent.
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
        # Otherwise each look at these would be one at the proxy first.
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
        """Binds log lines about it to it, wherever they are logged: the logger's ``extra``."""
        return {"bound": Bound(self.message_id, self.claim.queue)}

    def note_answer(self, answered: Completed) -> None:
        """Its agent has ended: what ends the run from now on must not cost the answer."""
        self.answered = answered

    def count_retry(self) -> None:
        """Show the failure in the options, as Dramatiq does before its other signals."""
        self.options["retries"] = self.retries + 1

    def _read(self, claim: Claim) -> dramatiq.Message[Any]:
        fields = _parse(claim.payload)
        if "actor_name" in fields:
            return _plain(claim, fields)
        self.task = Task.decode(fields, shared=True)  # Code of the user's gets others.
        return _addressed(claim, (fields,), dict(fields.pop("dramatiq", None) or {}))


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

"""Redactors: what a run may show outside its Result, without the secrets of the worker."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core.failures import error_kind, error_text
from agentpipe.core.redaction import Redactor
from agentpipe.errors import AgentpipeError
from agentpipe.worker.running.served_actor import served_actors

if TYPE_CHECKING:
    import dramatiq

    from agentpipe.worker.running.message import ClaimedMessage


class Redactors:
    """One for all actors of a worker: what one of them sees may be another's credential."""

    def __init__(self) -> None:
        self._made: Redactor | None = None
        self._actors = 0

    def of(self, broker: dramatiq.Broker) -> Redactor:
        """With the secrets of all actors that are declared."""
        if self._made is None or len(broker.actors) != self._actors:
            self._actors = len(broker.actors)
            actors = served_actors(broker)
            self._made = Redactor({secret for actor in actors for secret in actor.secrets})
        return self._made

    def answer(self, broker: dramatiq.Broker, message: ClaimedMessage) -> Any:
        """What a run gave; a plain actor has no secrets."""
        assert message.completed is not None
        answer, agent = message.completed.answer, message.task is not None
        return self.of(broker).value(answer) if agent else answer

    def error(self, broker: dramatiq.Broker, error: BaseException) -> BaseException:
        """The error of a run, or one like it."""
        said = error_text(error)
        masked = self.of(broker).text(said)
        if masked == said:
            return error
        kind: type[BaseException] = type(error_kind(error), (AgentpipeError,), {})
        return kind(masked)

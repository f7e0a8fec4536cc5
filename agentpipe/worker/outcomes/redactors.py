"""Redactors: what a run may show outside its Result, without the secrets of its actor."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.core.failures import error_kind, error_text
from agentpipe.core.redaction import Redactor
from agentpipe.errors import AgentpipeError
from agentpipe.worker.running.served_actor import served_actor

if TYPE_CHECKING:
    import dramatiq

    from agentpipe.worker.running.message import ClaimedMessage


class Redactors:
    """One for each actor of a worker."""

    def __init__(self) -> None:
        self._made: dict[str, Redactor] = {}

    def of(self, broker: dramatiq.Broker, actor_name: str) -> Redactor:
        """The actor's; one without secrets where it is unknown."""
        if actor_name not in self._made:
            actor = served_actor(broker, actor_name)
            self._made[actor_name] = Redactor(actor.secrets if actor else ())
        return self._made[actor_name]

    def answer(self, broker: dramatiq.Broker, message: ClaimedMessage) -> Any:
        """What a run gave; a plain actor has no secrets."""
        assert message.completed is not None
        answer, agent = message.completed.answer, message.task is not None
        return self.of(broker, message.actor_name).value(answer) if agent else answer

    def error(
        self, broker: dramatiq.Broker, message: ClaimedMessage, error: BaseException
    ) -> BaseException:
        """The error of a run, or one like it."""
        said = error_text(error)
        masked = self.of(broker, message.actor_name).text(said)
        if masked == said:
            return error
        kind: type[BaseException] = type(error_kind(error), (AgentpipeError,), {})
        return kind(masked)

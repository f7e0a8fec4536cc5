"""AgentActor: an agent as a Dramatiq actor, on a queue of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import dramatiq
import orjson

from agentpipe.errors import AgentpipeError
from agentpipe.sending.admission import admit

if TYPE_CHECKING:
    from agentpipe.config.collection import AgentSpec, Collection
    from agentpipe.core.task import Task
    from agentpipe.core.trace import Tracer


class AgentRunner(Protocol):
    """Runs one agent's tasks; a process that only sends has none."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not leave a run."""

    async def run(self, task: Task, tracer: Tracer) -> Any:
        """Run the agent, and evaluate its answer."""

    async def close(self) -> None:
        """Close what is kept between runs."""


class AgentActor(dramatiq.Actor[..., None]):
    """``send`` takes a question, a dict, a Task, or a Task's fields as keywords.

    Attributes:
        collection: Where its limits come from.
        spec: Which of the collection's agents it is.
        runner: Runs its tasks; None in a process that only sends.
    """

    def __init__(
        self,
        collection: Collection,
        spec: AgentSpec,
        broker: dramatiq.Broker,
        runner: AgentRunner | None = None,
    ) -> None:
        self.collection, self.spec, self.runner = collection, spec, runner
        super().__init__(
            _runs_in_a_worker,
            broker=broker,
            actor_name=spec.queue,
            queue_name=spec.queue,
            priority=0,
            options={"collection": collection.name},
        )

    def message_with_options(
        self,
        *,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
        **options: Any,
    ) -> dramatiq.Message[None]:
        """Build the message of one task.

        Raises:
            TaskError: The arguments are not a valid task.
        """
        admitted = admit(args[0] if args else dict(kwargs or {}), self.collection.search)
        return dramatiq.Message(
            queue_name=self.queue_name,
            actor_name=self.actor_name,
            args=(orjson.loads(admitted.payload),),
            kwargs={},
            options={"priority": admitted.task.priority, **options},
            message_id=admitted.task.task_id,
        )


def _runs_in_a_worker(*_: Any) -> NoReturn:
    raise AgentpipeError("an agent runs in a worker: send it a task and read the stream")

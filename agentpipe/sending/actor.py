"""AgentActor: an agent as a Dramatiq actor, on its own queue."""

from __future__ import annotations

import logging
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, Protocol

import dramatiq
import orjson

from agentpipe.core.outside import json_text
from agentpipe.errors import AgentpipeError, OptionError, TaskError
from agentpipe.sending.admission import admit
from agentpipe.sending.message_options import CALLBACKS, named

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from agentpipe.config.collection import AgentSpec, Collection
    from agentpipe.config.task_rules import TaskRules
    from agentpipe.core.task import Task
    from agentpipe.core.trace import Tracer

log = logging.getLogger(__name__)


class AgentRunner(Protocol):
    """Runs one agent's tasks; a process that only sends has none."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """Values that must not leave a run."""

    def refusals(self, task: Task) -> list[str]:
        """Why the task must not run, a sentence per reason."""

    async def run(self, task: Task, tracer: Tracer, answered: Callable[[Any], None]) -> Any:
        """Run the agent, pass its answer to ``answered``, and evaluate it."""

    async def close(self) -> None:
        """Close what is kept between runs."""


class AgentActor(dramatiq.Actor[..., None]):
    """``send`` takes a question, a dict, a Task, or a Task's fields as keywords.

    Attributes:
        collection: Source of its limits.
        spec: The collection's agent that this actor stands for.
        runner: Runs its tasks; None in a process that only sends.
        config_hash: The collection's fingerprint; empty if unknown.
        rules: What its collection offers to tasks.
    """

    def __init__(
        self,
        collection: Collection,
        spec: AgentSpec,
        broker: dramatiq.Broker,
        runner: AgentRunner | None = None,
        config_hash: str = "",
        *,
        rules: TaskRules | None = None,
    ) -> None:
        self.collection, self.spec, self.runner = collection, spec, runner
        self.config_hash = config_hash
        self.rules = collection.task_rules if rules is None else rules
        # Replaces Dramatiq's constructor, which makes a logger for each of thousands of agents;
        # logging would keep them all, with their names and places in the hierarchy.
        if spec.queue in broker.actors:
            raise ValueError(f"an actor named {spec.queue!r} is already registered")
        self.logger, self.fn, self.broker = log, _runs_in_a_worker, broker
        self.actor_name = self.queue_name = spec.queue
        self.priority, self.options = 0, _options(collection.name)
        broker.declare_actor(self)

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
        fields = args[0] if args else dict(kwargs or {})
        admitted = admit(fields, self.rules)
        # Without a question it can be a pipe's target: the previous answer becomes its question.
        complete = bool(args) or "question" in fields
        return dramatiq.Message(
            queue_name=self.queue_name,
            actor_name=self.actor_name,
            args=(orjson.loads(admitted.stamped(self.config_hash)),) if complete else (),
            kwargs={} if complete else fields,
            options={"priority": admitted.fields.get("priority", 0), **named(options)},
            message_id=admitted.task_id,
        )

    def task_of(self, message: dramatiq.Message[Any]) -> dict[str, Any]:
        """The task's fields, as the store keeps them, from a message for this agent.

        Raises:
            TaskError: What was piped to the agent makes no task.
        """
        if len(message.args) > 1:
            raise TaskError(
                f"{self.actor_name} has a question, and gets the answer before it in its pipeline "
                "as well: leave the question out, or give it pipe_ignore=True"
            )
        given = message.args[0] if message.args else {}
        if isinstance(given, dict) and "schema" in given:
            return given
        own = {"task_id": message.message_id, **message.kwargs}
        admitted = admit({**_as_task(given), **own}, self.rules)
        fields: dict[str, Any] = orjson.loads(admitted.stamped(self.config_hash))
        return fields


def _as_task(piped: Any) -> dict[str, Any]:
    """Convert the previous actor's result: an object is a task, anything else a question."""
    if isinstance(piped, dict):
        return {name: value for name, value in piped.items() if name != "task_id"}
    return {"question": json_text(piped)}


def refuse_agents_as_callbacks(
    place: str, options: Mapping[str, Any], actors: Mapping[str, dramatiq.Actor[..., Any]]
) -> None:
    """Refuse callbacks that are agents.

    Raises:
        OptionError: The message says what to use instead.
    """
    for name in CALLBACKS:
        actor = actors.get(given) if isinstance(given := options.get(name), str) else given
        if flaw := flaw_of_callback(name, actor):
            raise OptionError(f"{place}: {flaw}")


def flaw_of_callback(option: str, actor: dramatiq.Actor[..., Any] | None) -> str:
    """Why this actor cannot be called back: it would get a message; empty if it can."""
    if not isinstance(actor, AgentActor):
        return ""
    return f"{option}: {actor.actor_name!r} is an agent, which takes a task: use a pipeline"


@cache
def _options(collection: str) -> dict[str, Any]:
    """One options object for all agents of a collection."""
    return {"collection": collection}


def _runs_in_a_worker(*_: Any) -> NoReturn:
    raise AgentpipeError("an agent runs in a worker: send it a task and read the stream")

"""ServedActor: a worker's view of an actor, whether an agent or a plain Dramatiq actor."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from agentpipe.core.failures import retry_delay_s
from agentpipe.core.trace import Tracer
from agentpipe.sending.actor import AgentActor
from agentpipe.sending.plain_queues import CONCURRENCY
from agentpipe.worker.running import plain_actor, plain_failures

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    import dramatiq

    from agentpipe.worker.running.message import ClaimedMessage

PLAIN_CRASHES = 3
PLAIN_COOLDOWN_S = 3600.0


@dataclass(frozen=True, slots=True)
class ActorLimits:
    """The limits of one actor's tasks.

    Attributes:
        concurrency: Concurrent runs over the whole fleet.
        breaker: Equal failures in a row that pause its collection; 0 for never.
        max_cooldown_s: Most time that a task waits in cooldowns in total.
        group: Its concurrency group and the group's limit; None for no group.
        on_limit: The reward of a run that reached a limit; None for none.
    """

    time_limit_s: float
    max_retries: int
    max_crashes: int
    concurrency: int
    breaker: int = 0
    max_cooldown_s: float = PLAIN_COOLDOWN_S
    group: tuple[str, int] | None = None
    on_limit: float | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """A credential that several agents share at a service, which limits them together.

    Attributes:
        name: Unique in a worker.
        queues: Returns the queues of all agents that use it.
    """

    name: str
    queues: Callable[[], tuple[str, ...]]


class ServedActor(Protocol):
    """An actor as its worker sees it.

    Attributes:
        credential: The credential of its context.
        collection: Its collection's name; None outside any.
        context: The index of its context in the collection; None without any.
        takes_tasks: Whether its messages are Tasks.
        config_hash: The fingerprint of its collection; empty if unknown.
        strict_config: Whether tasks sent with another fingerprint are left alone.
        runs_in_thread: Whether each run needs one of the worker's threads.
        secrets: Values that must not leave a run.
    """

    @property
    def credential(self) -> Credential: ...  # noqa: D102 - see the class
    @property
    def collection(self) -> str | None: ...  # noqa: D102 - see the class
    @property
    def context(self) -> int | None: ...  # noqa: D102 - see the class
    @property
    def takes_tasks(self) -> bool: ...  # noqa: D102 - see the class
    @property
    def config_hash(self) -> str: ...  # noqa: D102 - see the class
    @property
    def strict_config(self) -> bool: ...  # noqa: D102 - see the class
    @property
    def secrets(self) -> tuple[str, ...]: ...  # noqa: D102 - see the class
    @property
    def limits(self) -> ActorLimits:
        """The limits of its tasks."""

    @property
    def runs_in_thread(self) -> bool: ...  # noqa: D102 - see the class

    def perform(self, message: ClaimedMessage) -> Coroutine[Any, Any, Any]:
        """Return a coroutine that runs it with one message."""

    def refusals(self, message: ClaimedMessage) -> list[str]:
        """Why it must not run, a sentence per reason."""

    def time_limit_s(self, message: ClaimedMessage) -> float:
        """The time limit of this run; infinite without one."""

    def retry_delay_s(
        self, message: ClaimedMessage, error: BaseException, base_s: float
    ) -> float | None:
        """Delay before the message is retried after this failure; None if it is not."""

    def is_too_old(self, message: ClaimedMessage) -> bool:
        """Whether it has waited longer than its sender allows."""

    def most_runs(self, message: ClaimedMessage) -> str:
        """Most runs of a message that keeps failing, for the log."""

    def outcome_of(self, error: BaseException) -> str:
        """The outcome of a message whose last run raised ``error``."""

    async def close(self) -> None:
        """Close what it keeps between runs."""


def served_actor(broker: dramatiq.Broker, actor_name: str) -> ServedActor | None:
    """The actor of that name; None if this worker does not know it."""
    actor = broker.actors.get(actor_name)
    return None if actor is None else _served(actor)


@cache  # Called several times per task; actors live as long as their process.
def _served(actor: dramatiq.Actor[..., Any]) -> ServedActor:
    return _Agent(actor) if isinstance(actor, AgentActor) else _Plain(actor)


def served_actors(broker: dramatiq.Broker) -> list[ServedActor]:
    """All actors that this worker knows."""
    return [actor for name in broker.actors if (actor := served_actor(broker, name))]


def time_limit_s(broker: dramatiq.Broker, message: ClaimedMessage) -> float:
    """The time limit of a message's run; infinite without one."""
    actor = served_actor(broker, message.actor_name)
    return math.inf if actor is None else actor.time_limit_s(message)


class _Agent:
    __slots__ = ("_actor", "collection", "config_hash", "context", "limits", "strict_config")
    takes_tasks = True
    runs_in_thread = False  # Its instances have their own threads.

    def __init__(self, actor: AgentActor) -> None:
        self._actor = actor
        self.collection, self.context = actor.collection.name, actor.spec.context_index
        self.config_hash = actor.config_hash
        self.strict_config = actor.collection.strict_config
        self.limits = _shared(_limits(actor))

    @property
    def credential(self) -> Credential:
        of, context = self._actor.collection, self._actor.spec.context_index
        return Credential(f"{of.name}/{context}", lambda: of.queues_of_context(context))

    @property
    def secrets(self) -> tuple[str, ...]:
        return self._actor.runner.secrets if self._actor.runner else ()

    def perform(self, message: ClaimedMessage) -> Coroutine[Any, Any, Any]:
        assert self._actor.runner is not None
        assert message.task is not None
        message.tracer = Tracer()
        message.tracer.attempt = message.claim.failures + message.claim.crashes + 1
        task = message.task
        if task.dramatiq is not None:
            task = task.changed(dramatiq=None)
        return self._actor.runner.run(task, message.tracer, message.note_answer)

    def refusals(self, message: ClaimedMessage) -> list[str]:
        task, runner = message.task, self._actor.runner
        if task is None:
            return []
        return self._actor.rules.problems(task) + (runner.refusals(task) if runner else [])

    def time_limit_s(self, message: ClaimedMessage) -> float:  # noqa: ARG002 - of the protocol
        return self._actor.collection.time_limit_s

    def retry_delay_s(
        self, message: ClaimedMessage, error: BaseException, base_s: float
    ) -> float | None:
        failures = message.claim.failures
        if failures >= self._actor.collection.max_retries:
            return None
        return retry_delay_s(error, base_s, failures)

    def is_too_old(self, message: ClaimedMessage) -> bool:  # noqa: ARG002 - of the protocol
        return False  # The task's deadline decides.

    def most_runs(self, message: ClaimedMessage) -> str:  # noqa: ARG002 - of the protocol
        return str(self._actor.collection.max_retries + 1)

    def outcome_of(self, error: BaseException) -> str:  # noqa: ARG002 - of the protocol
        return "infra_error"

    async def close(self) -> None:
        if self._actor.runner is not None:
            await self._actor.runner.close()


@cache
def _shared(limits: ActorLimits) -> ActorLimits:
    """Share one object among equal limits: a worker can have thousands of agents."""
    return limits


def _limits(actor: AgentActor) -> ActorLimits:
    of, spec = actor.collection, actor.spec
    group = spec.concurrency_group
    return ActorLimits(
        of.time_limit_s,
        of.max_retries,
        of.max_crashes,
        of.concurrency,
        of.breaker,
        of.max_cooldown_s,
        None if group is None else (group, spec.concurrency_group_limit),
        of.on_limit,
    )


class _Plain:
    takes_tasks = False
    strict_config = False
    config_hash = ""
    collection = None
    context = None
    secrets = ()

    def __init__(self, actor: dramatiq.Actor[..., Any]) -> None:
        self._actor = actor

    @property
    def runs_in_thread(self) -> bool:
        return plain_actor.coroutine_function(self._actor) is None

    @property
    def credential(self) -> Credential:
        name = self._actor.queue_name
        return Credential(f"queue {name}", lambda: (name,))

    @property
    def limits(self) -> ActorLimits:
        options = self._actor.options
        return ActorLimits(
            plain_actor.seconds(options.get("time_limit")),
            options.get("max_retries", plain_failures.MAX_RETRIES) or 0,
            PLAIN_CRASHES,
            options.get("concurrency", CONCURRENCY),
        )

    def perform(self, message: ClaimedMessage) -> Coroutine[Any, Any, Any]:
        message.tracer = Tracer()  # Its presence marks in the Result that the message has run.
        return plain_actor.perform(self._actor, message)

    def refusals(self, message: ClaimedMessage) -> list[str]:  # noqa: ARG002 - of the protocol
        return []

    def time_limit_s(self, message: ClaimedMessage) -> float:
        return plain_actor.time_limit_s(self._actor, message)

    def retry_delay_s(
        self, message: ClaimedMessage, error: BaseException, base_s: float
    ) -> float | None:
        return plain_failures.retry_delay_s(message, self._actor, error, base_s)

    def is_too_old(self, message: ClaimedMessage) -> bool:
        most_ms = plain_failures.option(message, self._actor, "max_age")
        return bool(most_ms) and time.time() * 1000 - message.message_timestamp >= most_ms

    def most_runs(self, message: ClaimedMessage) -> str:
        return plain_failures.most_runs(message, self._actor)

    def outcome_of(self, error: BaseException) -> str:
        return plain_failures.outcome_of(error)

    async def close(self) -> None:
        """Do nothing: nothing is kept between runs."""

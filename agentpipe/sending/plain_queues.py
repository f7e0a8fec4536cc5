"""Plain queues: the limits of queues whose actors are in no collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq

from agentpipe.brokers.records import Queue
from agentpipe.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Without its own options, a queue is bounded so that a mistake cannot fill the broker, and its
# concurrency is limited only by the workers' slots.
MAX_QUEUE_SIZE = 10_000
CONCURRENCY = 10_000
_DEFAULTS = {"max_queue_size": MAX_QUEUE_SIZE, "concurrency": CONCURRENCY}


class ActorOptions(dramatiq.Middleware):
    """Makes agentpipe's options of actors known to any broker.

    Add it to a ``StubBroker`` whose tests import actors with ``max_queue_size`` or
    ``concurrency``; there they have no effect.
    """

    @property
    def actor_options(self) -> set[str]:
        """The options of plain actors that only agentpipe has."""
        return set(_DEFAULTS)


class PlainQueues:
    """Merges the options of the actors that share a queue."""

    def __init__(self) -> None:
        # By queue, then by option: the value, and the actor that gave it.
        self._given: dict[str, dict[str, tuple[int, str]]] = {}

    def with_actor(self, actor: dramatiq.Actor[..., Any]) -> Queue:
        """Add the actor's options, and return the limits of its queue.

        Raises:
            OptionError: Another actor of the queue set a different limit.
        """
        given = self._given.setdefault(actor.queue_name, {})
        for name in _DEFAULTS.keys() & actor.options.keys():
            self._refuse_another(actor, name, given)
            given[name] = (actor.options[name], actor.actor_name)
        return self.of(actor.queue_name)

    def of(self, queue_name: str) -> Queue:
        """The limits of a queue, from the actors declared so far."""
        given = self._given.get(queue_name, {})
        return Queue(
            queue_name,
            max_waiting=_limit(given, "max_queue_size"),
            concurrency=_limit(given, "concurrency"),
        )

    def _refuse_another(
        self,
        actor: dramatiq.Actor[..., Any],
        name: str,
        given: Mapping[str, tuple[int, str]],
    ) -> None:
        value, by = given.get(name, (actor.options[name], actor.actor_name))
        if value != actor.options[name]:
            raise OptionError(
                f"actor {actor.actor_name}: {name}: {actor.options[name]}, but actor {by} of the "
                f"same queue {actor.queue_name!r} has {value}: give one of them, or another "
                "queue_name"
            )


def _limit(given: Mapping[str, tuple[int, str]], name: str) -> int:
    return given[name][0] if name in given else _DEFAULTS[name]

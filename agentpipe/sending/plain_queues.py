"""Plain queues: the limits of queues whose actors are in no collection."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import dramatiq

from agentpipe.brokers.records import Queue
from agentpipe.errors import OptionError

if TYPE_CHECKING:
    from collections.abc import Mapping

# Without options of its own a queue is bounded so that a mistake cannot fill the broker, and runs
# as much as the workers have slots.
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
        """Those of a plain actor that only agentpipe has."""
        return set(_DEFAULTS)


class PlainQueues:
    """Merges the options of the actors that share a queue."""

    def __init__(self) -> None:
        # By queue, then by option: the value, and the actor that gave it.
        self._given: dict[str, dict[str, tuple[int, str]]] = {}

    def with_actor(self, actor: dramatiq.Actor[..., Any]) -> Queue:
        """The limits of the actor's queue, now that it is declared.

        Raises:
            OptionError: Another actor of the queue gave another limit.
        """
        given = self._given.setdefault(actor.queue_name, {})
        for name in _DEFAULTS.keys() & actor.options.keys():
            self._refuse_another(actor, name, given)
            given[name] = (actor.options[name], actor.actor_name)
        return self.of(actor.queue_name)

    def of(self, queue_name: str) -> Queue:
        """The limits of a queue, as far as its actors are declared."""
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

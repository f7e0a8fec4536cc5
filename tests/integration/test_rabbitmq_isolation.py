"""On RabbitMQ, a task in its last chance runs apart from all that have crashed before."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

from agentpipe.brokers.rabbitmq.consumption import Consumption
from agentpipe.brokers.rabbitmq.deliveries import Deliveries
from agentpipe.brokers.rabbitmq.messages import Message, now_ms
from agentpipe.errors import Unreachable
from tests.integration.rounds import Rounds
from tests.stores import PATIENCE_S, claim_all
from tests.support import wait_until

if TYPE_CHECKING:
    import pytest

    from agentpipe.brokers.rabbitmq import RabbitStore
    from agentpipe.brokers.rabbitmq.served_agent import ServedAgent
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.rabbitmq.worker import RabbitWorker
    from tests.integration.rabbit_rig import Rig


def lay(store: RabbitStore, queue: str, task_id: str) -> None:
    """Publish a task that one more crash would end."""

    async def publish(services: Services) -> None:
        message = Message(task_id, queue, b"{}", submitted_ms=now_ms(), crashes=2)
        await services.publish([message.to(services.topology.back(queue))])

    store._run(publish)  # noqa: SLF001 - as a worker does after another's death


def returned(store: RabbitStore, queue: str) -> int:
    """How many returned tasks of this agent wait on the server."""

    async def depth(services: Services) -> int:
        name = services.topology.back(queue).name
        return (await services.queues.depths([name]))[name]

    return store._run(depth)  # noqa: SLF001 - no operation shows it


def worker_of(rig: Rig) -> RabbitWorker:
    return rig.store._workers["w"]  # noqa: SLF001 - no public name shows it


def look_at_agents(rig: Rig) -> None:
    """Have the worker look at its agents once more, whole."""
    rounds = Rounds(worker_of(rig))
    rig.store._link.soon(worker_of(rig)._look.set)  # noqa: SLF001 - as any change does
    wait_until(lambda: rounds.number, PATIENCE_S, "it has looked at its agents")


def connected_again(rig: Rig, before: RabbitWorker) -> bool:
    with suppress(Unreachable):
        return rig.store.heartbeat(rig.worker) and worker_of(rig) is not before
    return False


def test_a_run_in_its_last_chance_stays_isolated_when_its_worker_is_connected_again(
    rig: Rig,
) -> None:
    """Regression: another one was delivered beside it, again and again, and could die with it."""
    lay(rig.beside, "toys", "runs")
    (run,) = claim_all(1, rig.store, rig.worker)
    before = worker_of(rig)
    with rig.away():
        lay(rig.beside, "others", "waits")
    wait_until(lambda: connected_again(rig, before), PATIENCE_S, "it is connected again")
    wait_until(lambda: not rig.store.awaited, PATIENCE_S, "its run goes on")
    look_at_agents(rig)
    assert returned(rig.beside, "others") == 1
    assert rig.settled([run]) == [True]
    (next_one,) = claim_all(1, rig.store, rig.worker)
    assert (next_one.task_id, next_one.crashes) == ("waits", 2)


def test_isolation_that_begins_while_agents_are_taken_over_covers_all(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: returned tasks of those that followed were delivered all the same."""
    open_one, begun = Consumption._open, list[str]()  # noqa: SLF001 - the test begins it in one of the steps

    async def open_and_isolate(
        parts: Consumption, agent: ServedAgent, *it: Any, **how: Any
    ) -> None:
        if not begun:
            begun.append(agent.queue.name)
            parts.is_isolated()
        await open_one(parts, agent, *it, **how)

    rig.store.leave(rig.worker)
    monkeypatch.setattr(Deliveries, "has_one_in_last_chance", lambda _: True)
    monkeypatch.setattr(Consumption, "_open", open_and_isolate)
    rig.store.join(rig.worker)
    agents = worker_of(rig)._deliveries.agents  # noqa: SLF001 - no public name shows it
    wait_until(lambda: len(agents) == 2 and begun, PATIENCE_S, "they are taken over")
    look_at_agents(rig)
    assert [it for agent in agents.values() for it in agent.consumers if it.endswith(".back")] == []

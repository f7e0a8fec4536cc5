"""Introduction: how a worker describes itself to the others."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.rpc import Member

if TYPE_CHECKING:
    from agentpipe.brokers.rabbitmq.deliveries import Deliveries
    from agentpipe.brokers.rabbitmq.membership import Membership
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.records import Worker


def introduction_of(
    worker: Worker,
    membership: Membership,
    deliveries: Deliveries,
    services: Services,
    *,
    draining: bool,
) -> Member:
    """What a worker says of itself, without its report."""
    agents = deliveries.agents
    return Member(
        worker.name,
        membership.address,
        worker.host,
        worker.pid,
        worker.slots,
        worker.queues,
        deliveries.awaited.owned,
        {name: agent.running for name, agent in agents.items() if agent.running},
        {name: len(agent.ready) for name, agent in agents.items() if agent.ready},
        services.outbox.lent_to(worker.name),
        membership.connected + 1,
        services.cooldowns.all(),
        draining=draining,
    )

"""A scratch set of queues beside a store's own, and the removal of a set."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq.address import RabbitAddress
from agentpipe.connections.scratch import scratch_on
from agentpipe.connections.url import with_parameters

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.connections.scratch import Scratch


def scratch_of(url: str, name: str, remove: Callable[[str], None]) -> Scratch:
    """Queues under a separate prefix; ``remove`` is called with their URL."""
    address = RabbitAddress.parse(url)
    own = with_parameters(url, prefix=f"{address.topology.prefix}-{name}")
    server = address.server
    return scratch_on(
        own, partial(remove, own), (server.host, server.port), tls=server.tls is not None
    )


async def remove_all(services: Services) -> None:
    """Delete all queues and exchanges of the prefix that the registry knows, and shared ones.

    AMQP lists no queues, so those of named runs remain.
    """
    registry, topology = services.registry, services.topology
    await registry.read()
    known = [*registry.current(), *registry.former()]
    own = {source.name for queue in known for source in registry.sources(queue)}
    tickets = {
        topology.tickets(queue.name, bound).name
        for queue in known
        for bound in (queue.max_waiting, *registry.bounds(queue.name))
    }
    locks = {topology.lock(registry.unit_of(queue.name)) for queue in known}
    delays = {delay.name for delay in topology.delays()}
    channel = await services.connection.session.channel()
    await channel.delete(sorted(own | tickets | locks | delays | topology.all_shared()))
    for exchange in (topology.fleet, *sorted(delays)):
        await channel.call("exchange_delete", exchange)
    channel.close()

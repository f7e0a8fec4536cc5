"""How a claim on Redis finds the ready queues of its worker among those of many others."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.records import Worker
from brokers.server_redis import RedisServer
from tests.integration.redis_crew import offer, queues
from tests.stores import claim_up_to

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    import redis

    from agentpipe.brokers.records import Queue
    from tests.servers import OwnServer
    from tests.stores import AnyStore


@pytest.fixture
def redis_server(own_server: OwnServer) -> RedisServer:
    """A server for this test alone: what a claim asks is counted there."""
    return own_server(RedisServer)


def joined(store: AnyStore, names: Collection[str]) -> Worker:
    worker = Worker("w", lease_s=600.0, slots=100, queues=frozenset(names))
    store.join(worker)
    return worker


def calls_of(raw: redis.Redis, command: str) -> int:
    stats: Any = raw.info("commandstats")
    return int(stats.get(f"cmdstat_{command}", {"calls": 0})["calls"])


def gated(gates: int, agents: int) -> list[Queue]:
    """As many agents of each gate."""
    found: list[Queue] = []
    for gate in range(gates):
        options = {"concurrency_group": f"g{gate}", "concurrency_group_limit": 10}
        found += queues(agents, f"crew{gate}", max_waiting=10, concurrency=1, **options)
    return found


def test_a_claim_passes_over_the_gates_of_other_workers(store: AnyStore, raw: redis.Redis) -> None:
    gates, agents = 20, 300
    store.declare(gated(gates, agents))
    for gate in range(gates):
        offer(store, agents, f"crew{gate}", f"of{gate}")
    worker = joined(store, [f"crew{gates - 1}_{place}" for place in range(agents)])
    before = calls_of(raw, "smismember")
    claims = claim_up_to(5, store, worker)
    assert len({it.queue for it in claims}) == 5
    assert {it.queue.partition("_")[0] for it in claims} == {f"crew{gates - 1}"}
    # Other workers' gates have three pages each.
    assert calls_of(raw, "smismember") - before < gates


AGENTS, OWN = 5_600, 1_100


def names_of(places: Sequence[int]) -> list[str]:
    return [f"crew_{place}" for place in places]


@pytest.fixture
def crowd(store: AnyStore) -> AnyStore:
    """A store with one task for each of many agents."""
    store.declare(queues(AGENTS, max_waiting=10, concurrency=1))
    offer(store, AGENTS)
    return store


def test_a_claim_of_many_agents_among_more_reads_the_first_of_them(
    crowd: AnyStore, raw: redis.Redis
) -> None:
    own = names_of(range(0, 5 * OWN, 5))
    worker = joined(crowd, own)
    before = calls_of(raw, "zinter")
    claims = [it.queue for _ in range(3) for it in claim_up_to(10, crowd, worker)]
    assert calls_of(raw, "zinter") == before
    assert claims == sorted(own)[:30]  # None was served before: by name.


def test_a_claim_finds_its_agents_behind_those_of_others(crowd: AnyStore) -> None:
    own = sorted(names_of(range(AGENTS)))[-OWN:]
    worker = joined(crowd, own)
    claims = [it.queue for _ in range(3) for it in claim_up_to(10, crowd, worker)]
    assert claims == own[:30]

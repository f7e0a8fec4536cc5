"""On RabbitMQ one connection has the lock of an agent, until it releases it or ends."""

from __future__ import annotations

import uuid
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore
from agentpipe.brokers.rabbitmq.locks import PORTION
from agentpipe.settings import Settings
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.rabbitmq.services import Services
    from brokers.server_rabbitmq import RabbitServer

PATIENCE_S = 30.0
MANY = [f"agent {number}" for number in range(2 * PORTION + 20)]


@pytest.fixture(params=["classic", "quorum"])
def rabbit_url(request: pytest.FixtureRequest, rabbitmq_server: RabbitServer) -> str:
    prefix = f"test-{uuid.uuid4().hex[:8]}"
    return f"{rabbitmq_server.url}?prefix={prefix}&queues={request.param}"


@contextmanager
def connected(url: str) -> Iterator[RabbitStore]:
    with closing(open_store(Settings(broker=url))) as store:
        assert isinstance(store, RabbitStore)
        yield store


def take(store: RabbitStore, *units: str, owner: str = "w") -> set[str]:
    async def taken(services: Services) -> set[str]:
        return await services.locks.take(units, owner)

    return store._run(taken)  # noqa: SLF001 - no public name locks


def release(store: RabbitStore, *units: str, owner: str = "w") -> None:
    async def released(services: Services) -> None:
        await services.locks.release(owner, units)

    store._run(released)  # noqa: SLF001 - no public name releases


def held_up(store: RabbitStore, units: Sequence[str]) -> None:
    """Another connection gets them, once the server has noticed that they are free."""
    left = set(units)

    def taken() -> bool:
        left.difference_update(take(store, *left))
        return not left

    wait_until(taken, PATIENCE_S, "all locks")


def test_only_one_connection_gets_a_lock(rabbit_url: str) -> None:
    with connected(rabbit_url) as one, connected(rabbit_url) as other:
        assert take(one, "a", "b") == {"a", "b"}
        assert take(other, "a", "c", "b", "d") == {"c", "d"}
        assert take(one, "a", "b", "c", "d") == {"a", "b"}
        assert take(one, "a", owner="its neighbour") == set()


def test_among_many_locks_another_connection_gets_those_that_are_free(rabbit_url: str) -> None:
    with connected(rabbit_url) as one, connected(rabbit_url) as other:
        assert take(one, *MANY[::7]) == {*MANY[::7]}
        assert take(other, *MANY) == {*MANY}.difference(MANY[::7])
        assert take(one, *MANY) == {*MANY[::7]}


def test_a_released_lock_is_free_and_the_others_are_kept(rabbit_url: str) -> None:
    with connected(rabbit_url) as one, connected(rabbit_url) as other:
        assert take(one, "a", "b", "c") == {"a", "b", "c"}
        release(one, "b")
        held_up(other, ["b"])
        assert take(other, "a", "c") == set()
        release(one, "a", "c")
        held_up(other, ["a", "c"])
        assert take(one, "a", "b", "c") == set()
        release(other, "b")
        held_up(one, ["b"])


def test_the_locks_of_a_connection_that_ends_are_free(rabbit_url: str) -> None:
    with connected(rabbit_url) as other:
        with connected(rabbit_url) as one:
            assert take(one, *MANY) == {*MANY}
            assert take(other, *MANY) == set()
        held_up(other, MANY)


def test_a_refused_lock_costs_no_earlier_one(rabbit_url: str) -> None:
    with connected(rabbit_url) as one, connected(rabbit_url) as other:
        assert take(one, "a") == {"a"}
        assert take(other, "b") == {"b"}
        assert take(one, "b") == set()
        assert take(other, "a", "c") == {"c"}
        assert take(one, "c") == set()


def test_a_worker_whose_lock_is_deleted_starts_anew(rabbitmq_server: RabbitServer) -> None:
    """It must not serve an agent that another worker can lock."""
    with connected(f"{rabbitmq_server.url}?prefix=test-{uuid.uuid4().hex[:8]}") as store:
        assert take(store, "a", "b") == {"a", "b"}
        session = store._link._session  # noqa: SLF001 - no public name shows the session
        assert session is not None

        async def delete(services: Services) -> None:
            async with services.connection.admin.use() as channel:
                await channel.delete([services.topology.lock("a")])

        store._run(delete)  # noqa: SLF001 - as an operator does
        wait_until(lambda: not session.is_open, PATIENCE_S, "its connection ends")
        held_up(store, ["a", "b"])


def test_a_worker_of_an_earlier_version_keeps_its_locks(rabbitmq_server: RabbitServer) -> None:
    url = f"{rabbitmq_server.url}?prefix=test-{uuid.uuid4().hex[:8]}"
    with connected(url) as ours, connected(url) as theirs:

        async def lock(services: Services) -> None:
            async with services.connection.admin.use() as channel:
                channel.lock_exclusively(services.topology.lock("a"))
                await channel.catch_up()

        theirs._run(lock)  # noqa: SLF001 - as earlier versions did
        assert take(ours, "a", "b") == {"b"}

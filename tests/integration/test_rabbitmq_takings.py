"""On RabbitMQ, tasks that an operator's process took count no crash if it is killed meanwhile."""

from __future__ import annotations

from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.rabbitmq import RabbitStore, moving
from agentpipe.brokers.rabbitmq.purge import Purge
from agentpipe.brokers.records import Offer, Queue, Worker
from agentpipe.connections.amqp.channel import ChannelClosed
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from tests.stores import claim_all, good, open_any

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.stores import AnyStore

TASKS = [f"t{number}" for number in range(6)]


def agents(number: int, max_crashes: int = 1) -> list[Queue]:
    return [Queue(f"c_{index}", "c", 100, 9, max_crashes) for index in range(number)]


@contextmanager
def opened(rabbit_url: str, queues: list[Queue]) -> Iterator[AnyStore]:
    with closing(open_any(Settings(broker=rabbit_url))) as store:
        store.declare(queues)
        yield store


def joined(store: AnyStore, queues: list[Queue]) -> Worker:
    worker = Worker("w", slots=9, queues=frozenset(it.name for it in queues), lease_s=60)
    store.join(worker)
    return worker


def offer(store: AnyStore) -> None:
    store.offer("c", [Offer(task_id, b"{}") for task_id in TASKS], round_robin=True)


def crashes_of_all(store: AnyStore, worker: Worker) -> dict[str, int]:
    """Run the tasks one after another; returns their crashes."""
    found: dict[str, int] = {}
    while len(found) < len(TASKS):
        (claim,) = claim_all(1, store, worker)
        found[claim.task_id] = claim.crashes
        store.settle(good([claim]))
    return found


NONE = dict.fromkeys(TASKS, 0)


@contextmanager
def killed_mover(rabbit_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The process that moves the tasks of an agent ends after it took them."""

    async def end(*_: Any) -> None:
        raise ChannelClosed("killed")

    with opened(rabbit_url, agents(2)) as store:
        offer(store)
    with opened(rabbit_url, agents(1)) as store, monkeypatch.context() as patch:
        patch.setattr(moving.Moving, "_outgoing", end)
        with pytest.raises(Unreachable):
            store.move("c", ["c_1"], 500)
    yield


def test_a_mover_after_a_killed_one_counts_no_crash(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: with ``max_crashes: 1`` the tasks became dead letters and never ran."""
    with killed_mover(rabbit_url, monkeypatch), opened(rabbit_url, agents(1)) as store:
        assert store.move("c", ["c_1"], 500) == len(TASKS) // 2
        assert crashes_of_all(store, joined(store, agents(1))) == NONE


def test_a_worker_after_a_killed_mover_counts_no_crash(
    rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with killed_mover(rabbit_url, monkeypatch), opened(rabbit_url, agents(2, 3)) as store:
        assert crashes_of_all(store, joined(store, agents(2))) == NONE


@pytest.mark.parametrize("is_there", [True, False])
def test_a_worker_during_or_after_a_killed_purge_counts_no_crash(
    rabbit_url: str, *, is_there: bool
) -> None:
    """Regression: after two seconds each task counted one."""
    queues = agents(1, 3)
    with opened(rabbit_url, queues) as store:
        worker = joined(store, queues) if is_there else None
        offer(store)
        with opened(rabbit_url, queues) as operator:
            assert isinstance(operator, RabbitStore)
            purge = Purge(["c_0"])
            operator._run(purge.open)  # noqa: SLF001 - as ``purge`` does
            assert len(operator._run(purge.take)) == len(TASKS)  # noqa: SLF001 - as above
        assert crashes_of_all(store, worker or joined(store, queues)) == NONE


def test_a_task_of_a_dead_worker_that_moves_is_a_suspect_if_its_first_crash_is_final(
    rabbit_url: str,
) -> None:
    """Regression: all that was delivered to that worker became dead letters."""
    queues = agents(2)
    with opened(rabbit_url, queues) as store:
        offer(store)
    with opened(rabbit_url, queues) as store:
        claim_all(len(TASKS), store, joined(store, queues))
    with opened(rabbit_url, agents(1)) as store:
        assert store.move("c", ["c_1"], 500) == len(TASKS) // 2
        assert crashes_of_all(store, joined(store, agents(1))) == NONE

"""A RabbitMQ worker whose channel the server closes, alone, keeps its runs."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.integration.rabbit_rig import look_for_a_missing_queue
from tests.stores import claim_all

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.connections.amqp.channel import Channel
    from tests.integration.rabbit_rig import Rig


def acknowledge_what_was_not_delivered(channel: Channel) -> None:
    channel._say_acknowledged([(10**6, False)])  # noqa: SLF001 - no other method would


@pytest.mark.parametrize("err", [look_for_a_missing_queue, acknowledge_what_was_not_delivered])
def test_a_worker_whose_channel_is_closed_keeps_its_runs(
    rig: Rig, err: Callable[[Channel], None]
) -> None:
    """Regression: it lost its lease, and all that it ran began again elsewhere."""
    runs = [*rig.run("toys", "a"), *rig.run("others", "b")]
    rig.offer("toys", "next")
    session = rig.store._link._session  # noqa: SLF001 - no public name shows it
    rig.have_closed(err)
    assert rig.lost(*runs) == set()
    assert rig.settled(runs) == [True, True]
    (claim,) = claim_all(1, rig.store, rig.worker)
    assert (claim.task_id, claim.crashes) == ("next", 0)
    assert rig.store._link._session is session  # noqa: SLF001 - as above


async def delete_exchange(services: Services) -> None:
    async with services.connection.admin.use() as channel:
        await channel.call("exchange_delete", services.topology.fleet)


def test_a_worker_keeps_its_runs_if_the_exchange_of_the_fleet_is_gone(rig: Rig) -> None:
    """Regression: it could not join again until its connection or its lease ended."""
    runs = rig.run("toys", "a")
    rig.beside._run(delete_exchange)  # noqa: SLF001 - as an operator can
    rig.have_closed(look_for_a_missing_queue)
    assert rig.lost(*runs) == set()
    assert rig.settled(runs) == [True]


def test_a_run_goes_on_with_its_own_task_if_its_id_was_sent_again(rig: Rig) -> None:
    """Regression: its end removed the later one, which never ran."""
    runs = rig.run("toys", "same")
    rig.have_closed(look_for_a_missing_queue)
    rig.offer("toys", "same", priority=-1)
    assert rig.settled(runs) == [True]
    (claim,) = claim_all(1, rig.store, rig.worker)
    assert claim.key != runs[0].key
    assert (claim.task_id, claim.crashes) == ("same", 0)
    assert claim.submitted_at > runs[0].submitted_at

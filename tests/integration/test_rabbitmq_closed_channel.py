"""A RabbitMQ worker whose channel the server closes, alone, keeps its runs."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from agentpipe.connections.amqp.channel import ChannelClosed
from tests.integration.rabbit_rig import rig_on
from tests.stores import PATIENCE_S, claim_all
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.connections.amqp.channel import Channel
    from brokers.server_rabbitmq import RabbitServer
    from tests.integration.rabbit_rig import Rig


@pytest.fixture
def rig(rabbitmq_server: RabbitServer) -> Iterator[Rig]:
    url = f"{rabbitmq_server.url}?prefix=test-{uuid.uuid4().hex[:8]}"
    with rig_on(url, rabbitmq_server) as rig:
        yield rig


def look_for_a_missing_queue(channel: Channel) -> None:
    channel._raw.queue_declare("absent", passive=True)  # noqa: SLF001 - no method of ours waits for nothing


def acknowledge_what_was_not_delivered(channel: Channel) -> None:
    channel._say_acknowledged([(10**6, False)])  # noqa: SLF001 - no other method would


@pytest.mark.parametrize("err", [look_for_a_missing_queue, acknowledge_what_was_not_delivered])
def test_a_worker_whose_channel_is_closed_keeps_its_runs(rig: Rig, err: object) -> None:
    """Regression: it lost its lease, and all that it ran began again elsewhere."""
    assert callable(err)
    runs = [*rig.run("toys", "a"), *rig.run("others", "b")]
    rig.offer("toys", "next")
    session, channel = rig.store._link._session, rig.store._workers["w"]._channel.raw  # noqa: SLF001 - no public name shows them
    with suppress(ChannelClosed):
        rig.store._link.soon(lambda: err(channel))  # noqa: SLF001 - on its own thread
    wait_until(lambda: not channel.is_open, PATIENCE_S, "the channel is closed")
    assert rig.lost(*runs) == set()
    assert rig.settled(runs) == [True, True]
    (claim,) = claim_all(1, rig.store, rig.worker)
    assert (claim.task_id, claim.crashes) == ("next", 0)
    assert rig.store._link._session is session  # noqa: SLF001 - as above

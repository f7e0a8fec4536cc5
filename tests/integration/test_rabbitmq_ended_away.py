"""On RabbitMQ, runs that ended while their worker was away are settled as they are found again."""

from __future__ import annotations

import uuid
from contextlib import suppress
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers.rabbitmq import awaited_runs
from agentpipe.errors import Unreachable
from tests.integration.rabbit_queues import delete_queues
from tests.integration.rabbit_rig import LONG_S, QUEUES, rig_on
from tests.stores import PATIENCE_S, claim_all, good
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from agentpipe.brokers.records import Claim
    from brokers.server_rabbitmq import RabbitServer
    from tests.integration.rabbit_rig import Rig


@pytest.fixture
def broker_url(rabbitmq_server: RabbitServer) -> str:
    return f"{rabbitmq_server.url}?prefix=test-{uuid.uuid4().hex[:8]}"


@pytest.fixture
def rig(broker_url: str, rabbitmq_server: RabbitServer) -> Iterator[Rig]:
    with rig_on(broker_url, rabbitmq_server) as rig:
        yield rig


def settled_in_part(rig: Rig, claims: Sequence[Claim]) -> list[str]:
    """Settle these, of which one is not found; returns whose results are stored."""
    with suppress(Unreachable):
        rig.store.settle(good(claims))
        raise AssertionError("one of them cannot be settled")
    return [record.task_id for record in rig.store.take_outbox(rig.worker, 9, 10**6)]


def test_what_ended_is_settled_although_another_run_is_not_delivered_again(
    rig: Rig, broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: all that had ended waited for it for seconds, and new claims with them."""
    monkeypatch.setattr(awaited_runs, "REUNION_S", LONG_S)
    (gone,), (kept,) = rig.run("toys", "gone"), rig.run("others", "kept")
    with rig.away():
        delete_queues(broker_url, QUEUES[0])
    both = [gone, kept]
    stored = wait_until(lambda: settled_in_part(rig, both), PATIENCE_S, "one is settled")
    assert stored == ["kept"]
    assert rig.store.awaited == {gone.key}
    assert rig.store.settle(good([kept])) == [True]  # It is told of what was done.
    rig.offer("others", "next")
    assert [claim.task_id for claim in claim_all(1, rig.store, rig.worker)] == ["next"]

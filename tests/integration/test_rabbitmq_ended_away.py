"""On RabbitMQ, runs that ended while their worker was away are settled as they are found again."""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING

from agentpipe.brokers.rabbitmq import awaited_runs
from agentpipe.errors import Unreachable
from tests.integration.rabbit_queues import delete_queues
from tests.integration.rabbit_rig import LONG_S, QUEUES
from tests.stores import PATIENCE_S, claim_all, good
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pytest

    from agentpipe.brokers.records import Claim
    from tests.integration.rabbit_rig import Rig


def settled_in_part(rig: Rig, claims: Sequence[Claim]) -> list[str]:
    """Settle these, one of which is not found; returns whose results are stored."""
    with suppress(Unreachable):
        rig.store.settle(good(claims))
        raise AssertionError("one of them cannot be settled")
    return [record.task_id for record in rig.store.take_outbox(rig.worker, 9, 10**6)]


def test_what_ended_is_settled_although_another_run_is_not_delivered_again(
    rig: Rig, rabbit_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: all that had ended waited for it for seconds, and new claims with them."""
    monkeypatch.setattr(awaited_runs, "REUNION_S", LONG_S)
    (gone,), (kept,) = rig.run("toys", "gone"), rig.run("others", "kept")
    with rig.away():
        delete_queues(rabbit_url, QUEUES[0])
    both = [gone, kept]
    stored = wait_until(lambda: settled_in_part(rig, both), PATIENCE_S, "one is settled")
    assert stored == ["kept"]
    assert rig.store.awaited == {gone.key}
    assert rig.store.settle(good([kept])) == [True]  # It hears what was done.
    rig.offer("others", "next")
    assert [claim.task_id for claim in claim_all(1, rig.store, rig.worker)] == ["next"]

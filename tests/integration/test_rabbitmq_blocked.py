"""A RabbitMQ that blocks publishers while memory or disk is low, and what it accepts later."""

from __future__ import annotations

import os
import subprocess
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING

import pytest

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore
from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from brokers.install import find
from brokers.server_rabbitmq import RabbitServer
from tests.stores import claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from agentpipe.brokers.records import Claim
    from tests.servers import OwnServer

CONTROL = find("rabbitmqctl", os.environ)
LEASE_S = 600.0

pytestmark = [
    pytest.mark.long,
    pytest.mark.skipif(CONTROL is None, reason="nothing here tells RabbitMQ to be short of memory"),
]


@pytest.fixture
def server(own_server: OwnServer) -> RabbitServer:
    return own_server(RabbitServer)


@contextmanager
def short_of_memory(server: RabbitServer) -> Iterator[None]:
    _limit(server, "0")
    yield
    _limit(server, "0.4")


def _limit(server: RabbitServer, part: str) -> None:
    assert CONTROL is not None
    environ = server._server_environ()  # noqa: SLF001 - rabbitmqctl finds the node by it
    command = [CONTROL, "set_vm_memory_high_watermark", part]
    subprocess.run(command, env=environ, check=True, stdout=subprocess.DEVNULL)


def test_a_settlement_that_was_given_up_is_carried_out_once(server: RabbitServer) -> None:
    """Regression: each retry published the result again, and the server accepted all in the end."""
    with closing(open_store(Settings(broker=server.url))) as store:
        assert isinstance(store, RabbitStore)
        store.declare([Queue("one", None, 100, 1)])
        worker = Worker("w", slots=1, queues=frozenset({"one"}), lease_s=LEASE_S)
        store.join(worker)
        store.offer("one", [Offer("t", b"{}")], round_robin=False)
        (claim,) = wait_until(lambda: claim_up_to(1, store, worker), 30, "a claim")
        with short_of_memory(server):
            for _ in range(3):
                with pytest.raises(Unreachable, match="takes nothing at present"):
                    settle(store, claim, patience_s=1.0)
        assert settle(store, claim, patience_s=30.0) == [True]
        assert settle(store, claim, patience_s=30.0) == [False]
        assert [it.task_id for it in store.take_outbox(worker, 10, 10**6)] == ["t"]


def settle(store: RabbitStore, claim: Claim, patience_s: float) -> list[bool]:
    settling = store._workers[claim.worker].settling  # noqa: SLF001 - to use another timeout
    good = [Settlement(claim, "complete", b"{}", "ok")]
    return store._run(lambda _: settling.settle(good), patience_s)  # noqa: SLF001 - to use another timeout

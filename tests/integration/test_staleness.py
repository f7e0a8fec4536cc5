"""Staleness: a simulated fleet and a trainer, on a real broker and a real stream."""

from __future__ import annotations

import os
import random
import threading
from typing import TYPE_CHECKING

import pytest

from agentpipe import GroupStream, Policy
from agentpipe.brokers.records import Group, MemberEnd, Offer, Queue, Settlement, Worker
from agentpipe.core.policy import PolicySpec
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from tests.stores import claim_up_to, open_any

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe.brokers.records import Claim
    from agentpipe.training.rollout_group import RolloutGroup

pytestmark = pytest.mark.long

# 10,000 groups take about two minutes on SQLite.
GROUPS = int(os.environ.get("STALENESS_GROUPS", "1000"))
SIZE, BATCH, STALENESS = 2, 16, 1
SLOTS, PORTION = 200, 500


class Fleet(threading.Thread):
    """Sends groups, and ends their members in random order, some of them as failures.

    Attributes:
        started: By task: the version at its first request.
    """

    def __init__(self, settings: Settings, queues: list[str], seed: int) -> None:
        super().__init__(daemon=True)
        self.store, self.sink = open_any(settings), open_sink(settings)
        self.worker = Worker("fleet", queues=frozenset(queues), slots=SLOTS, lease_s=600)
        self.started: dict[str, int] = {}
        self.most_begun: list[tuple[int, int]] = []
        self.error: BaseException | None = None
        self.ended = threading.Event()
        self._random, self._sent = random.Random(seed), 0
        self._held: list[Claim] = []

    def run(self) -> None:
        try:
            self.store.join(self.worker)
            while not self.ended.is_set():
                self._turn()
        except BaseException as error:  # noqa: BLE001 - the test raises it
            self.error = error

    def _turn(self) -> None:
        assert self.store.heartbeat(self.worker)
        stats = self.store.stats()
        if (stats.waiting or 0) + (stats.delayed or 0) < PORTION:
            names = [f"g{self._sent + n}" for n in range(PORTION // SIZE)]
            self._sent += len(names)
            self.store.offer_groups("crew", list(map(group_of, names)))
        (state,) = self.store.policies()
        for claim in claim_up_to(SLOTS - len(self._held), self.store, self.worker):
            self.started.setdefault(claim.task_id, state.version)
            self._held.append(claim)
        self._random.shuffle(self._held)
        ending = [self._held.pop() for _ in range(self._random.randint(0, len(self._held)))]
        self.store.settle(list(map(self._settlement, ending)))
        taken = self.store.take_outbox(self.worker, 1_000, 10**8)
        self.sink.publish([Record(it.task_id, it.payload) for it in taken])
        self.store.drop_outbox(self.worker, [it.number for it in taken])

    def _settlement(self, claim: Claim) -> Settlement:
        name, index = claim.task_id.rsplit("/", 1)
        version, chance = self.started[claim.task_id], self._random.random()
        if chance < 0.05 and not claim.cancelled:
            return Settlement(claim, "release")
        outcome = "cancelled" if claim.cancelled else "agent_error" if chance < 0.1 else "ok"
        good = outcome == "ok"
        result = Result(
            task_id=claim.task_id,
            outcome=outcome,
            group_id=name,
            sample_index=int(index),
            group_size=SIZE,
            group_need=SIZE,
            reward=self._random.choice((0.0, 1.0)) if good else None,
            reward_trustworthy=good,
            policy_version=version,
        )
        body = result.encode(Redactor(()))
        member = MemberEnd(good=good, versions=(version,) if good else ())
        return Settlement(claim, "complete", body, outcome, member=member)


def group_of(name: str) -> Group:
    members = tuple(Offer(f"{name}/{n}", b"{}", group_id=name) for n in range(SIZE))
    return Group(name, members, SIZE)


@pytest.mark.parametrize("broker", ["sqlite", "redis"])
def test_no_group_is_too_old_and_the_loop_never_stops(
    broker: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    """Half of the groups are flat or fail; versions rise as batches fill; readers restart."""
    url = f"sqlite:///{tmp_path / 'broker.db'}?synchronous=normal"
    if broker == "redis":
        url = f"{request.getfixturevalue('redis_server').url}?prefix=staleness-{os.getpid()}"
    settings = Settings(broker=url, sink=f"sqlite:///{tmp_path / 'results.db'}?synchronous=normal")
    spec = PolicySpec("main", ("http://h/v1",), batch=BATCH, max_staleness=STALENESS)
    queues = [f"crew_{n}" for n in range(4)]
    with_all = open_any(settings)
    with_all.declare(
        [Queue(it, "crew", max_waiting=10_000, concurrency=SLOTS, policy=spec) for it in queues]
    )
    fleet = Fleet(settings, queues, seed=7)
    fleet.start()
    used, worst, state = 0, 0, None
    chance = random.Random(8)
    with Policy.open("main", settings) as policy:
        while used < GROUPS:
            with GroupStream.open(settings, group="trainer", policy="main", timeout_s=60) as stream:
                if state:
                    stream.load_state_dict(state)
                version, until = policy.version, used + chance.randint(1, 40 * BATCH)
                for group in stream:
                    assert fleet.error is None, fleet.error
                    used += 1
                    worst = max(worst, version - oldest_of(group, fleet))
                    now = with_all.policies()[0]
                    assert now.room is not None
                    assert now.room >= 0, now
                    if used % BATCH == 0:
                        version += 1
                        policy.publish(version)
                        state = stream.state_dict()
                    if used >= min(until, GROUPS):
                        break
                else:
                    pytest.fail(f"nothing came for 60 s after {used} groups: {now}")
                state = stream.state_dict()
    fleet.ended.set()
    fleet.join(60)
    with_all.close()
    assert worst <= STALENESS
    assert used == GROUPS


def oldest_of(group: RolloutGroup, fleet: Fleet) -> int:
    """The group's oldest version, by the fleet's own records."""
    return min(fleet.started[it.task_id] for it in group.goods)

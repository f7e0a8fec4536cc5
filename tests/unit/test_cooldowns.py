"""Cooldowns: how long a credential rests, and which agents rest with it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentpipe.config.collection import ContextSpec
from agentpipe.core.failures import RateLimit
from agentpipe.worker.outcomes.cooldowns import BELIEVED, CredentialCooldowns
from agentpipe.worker.running.served_actor import Credential
from tests.unit.agents import CREW

QUEUES = ("crew_0", "crew_1")
CREDENTIAL = Credential("crew/0", lambda: QUEUES)
OTHER = Credential("crew/1", lambda: ("crew_2",))
UNNAMED = RateLimit(None, of_credential=True)


def named(asked_s: float) -> RateLimit:
    return RateLimit(asked_s, of_credential=True)


class Bench:
    """Cooldowns on a clock that the test controls."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.cooldowns = CredentialCooldowns(lambda: self.now)

    def rounds(self, number: int, limit: RateLimit = UNNAMED) -> list[float]:
        """The pauses of ``number`` consecutive cooldowns."""
        pauses = []
        for _ in range(number):
            pauses.append(self.cooldowns.begin(CREDENTIAL, limit).delay_s)
            self.now += pauses[-1]
        return pauses


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_the_pauses_grow_from_5_to_60_seconds_with_jitter() -> None:
    runs = [Bench().rounds(8) for _ in range(40)]
    for number, least in enumerate([5, 10, 20, 40, 48, 48, 48, 48]):
        pauses = {run[number] for run in runs}
        assert all(least <= pause <= least * 1.25 for pause in pauses)
        assert len(pauses) > 30


def test_a_run_that_ends_well_makes_the_next_pause_a_first_one(bench: Bench) -> None:
    bench.rounds(3)
    bench.cooldowns.end(CREDENTIAL)
    assert bench.rounds(1)[0] <= 6.25


def test_each_credential_has_pauses_of_its_own(bench: Bench) -> None:
    bench.rounds(3)
    first = bench.cooldowns.begin(OTHER, UNNAMED)
    assert first.delay_s <= 6.25
    assert first.queues == ("crew_2",)


def test_runs_that_were_under_way_join_the_cooldown_and_announce_nothing(bench: Bench) -> None:
    first = bench.cooldowns.begin(CREDENTIAL, UNNAMED)
    assert first.queues == QUEUES
    bench.now += 2
    for limit in (UNNAMED, named(0.5)):
        joined = bench.cooldowns.begin(CREDENTIAL, limit)
        assert joined.delay_s == pytest.approx(first.delay_s - 2)
        assert joined.queues == ()
    bench.now += first.delay_s
    assert 10 <= bench.rounds(1)[0] <= 12.5  # They were one round.


def test_a_bounded_cooldown_is_over_at_its_bound(bench: Bench) -> None:
    assert bench.cooldowns.begin(CREDENTIAL, named(9000), 60.0).delay_s == 60
    bench.now += 20
    assert bench.cooldowns.begin(CREDENTIAL, UNNAMED, 1.0).delay_s == 1
    assert bench.cooldowns.begin(CREDENTIAL, named(9000), 60.0).delay_s == 60
    assert bench.cooldowns.begin(CREDENTIAL, UNNAMED).delay_s == 60
    bench.now += 60
    assert bench.cooldowns.begin(CREDENTIAL, named(2)).delay_s == 2


def test_an_answer_within_a_cooldown_does_not_end_it(bench: Bench) -> None:
    first = bench.cooldowns.begin(CREDENTIAL, UNNAMED)
    bench.cooldowns.end(CREDENTIAL)
    assert bench.cooldowns.begin(CREDENTIAL, UNNAMED).delay_s == pytest.approx(first.delay_s)


def test_a_named_time_wins_and_a_longer_one_extends_the_cooldown(bench: Bench) -> None:
    assert bench.rounds(2, named(0.02)) == [0.02, 0.02]
    bench.cooldowns.begin(CREDENTIAL, named(7))
    longer = bench.cooldowns.begin(CREDENTIAL, named(30))
    assert (longer.delay_s, longer.queues) == (30, QUEUES)


def test_a_service_that_names_a_time_in_vain_again_and_again_is_believed_no_more(
    bench: Bench,
) -> None:
    pauses = bench.rounds(BELIEVED + 2, named(0.02))
    assert pauses[:BELIEVED] == [0.02] * BELIEVED
    assert [pause // 5 for pause in pauses[BELIEVED:]] == [1, 2]
    assert bench.rounds(1, named(90)) == [90]


def test_a_context_is_that_of_every_nth_agent() -> None:
    contexts = tuple(ContextSpec({}, {}, "crew.yaml", 1) for _ in "abc")
    crew = replace(CREW, number=2, contexts=contexts)
    for agent in crew.agents:
        sharing = [each.queue for each in crew.agents if each.context_index == agent.context_index]
        assert crew.queues_of_context(agent.context_index) == tuple(sharing)
    alone = replace(CREW, number=3)
    assert alone.queues_of_context(None) == ("crew_0", "crew_1", "crew_2")

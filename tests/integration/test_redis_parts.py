"""What a large store on Redis does in parts: no call of a script grows with agents and tasks."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.brokers.capabilities import TaskQuery
from agentpipe.brokers.records import Offer, Queue, RunFailure, Settlement
from agentpipe.core.budgets import Budget
from agentpipe.operations.rebalance import rebalance
from brokers.server_redis import RedisServer
from tests.integration.redis_calls import runs_of_scripts
from tests.integration.redis_crew import MANY, claim_all_of, offer, queues, worker_of
from tests.stores import claim_up_to

if TYPE_CHECKING:
    import redis

    from tests.servers import OwnServer
    from tests.stores import AnyStore

PARKED = 1_100


@pytest.fixture
def redis_server(own_server: OwnServer) -> RedisServer:
    """A server for this test alone: its commands are counted there."""
    return own_server(RedisServer)


def test_a_snapshot_of_many_agents_is_several_calls(store: AnyStore) -> None:
    store.declare(queues())
    offer(store, MANY + 5)
    with runs_of_scripts(store) as calls:
        stats = store.stats()
    assert calls["stats"] > 1
    assert [queue.queue for queue in stats.queues] == [it.name for it in queues()]
    assert (stats.waiting, stats.queues[0].waiting, stats.queues[-1].waiting) == (MANY + 5, 2, 1)


def test_a_snapshot_of_few_agents_is_one_call(store: AnyStore) -> None:
    store.declare(queues(100))
    with runs_of_scripts(store) as calls:
        assert len(store.stats().queues) == 100
    assert calls["stats"] == 1


def test_a_pause_of_many_agents_reaches_each_of_them(store: AnyStore) -> None:
    store.declare([*queues(), *queues(10, "team")])
    for paused in (True, False):
        with runs_of_scripts(store) as calls:
            store.pause(collections=["crew"], paused=paused)
        assert calls["apply_changes"] > 2
        found = Counter((it.collection, it.paused) for it in store.stats().queues)
        assert found == {("crew", paused): MANY, ("team", False): 10}


def test_a_pause_of_some_agents_reads_no_other(store: AnyStore) -> None:
    store.declare(queues())
    with runs_of_scripts(store) as calls:
        store.pause(queues=["crew_7", f"crew_{MANY - 1}"], paused=True)
    assert calls == {"pause": 1}
    paused = [it.queue for it in store.stats().queues if it.paused]
    assert paused == ["crew_7", f"crew_{MANY - 1}"]


def begin_to_pause(store: Any) -> None:
    """Pause the crew, in a process that is killed after the first call."""
    assert store._scripts.run("pause", 1, "", "collection crew")  # noqa: SLF001 - interrupts it


def test_a_pause_whose_command_was_killed_is_kept_and_completed_by_claims(
    store: AnyStore, raw: redis.Redis, prefix: str
) -> None:
    crew, team = queues(), queues(40, "team")
    store.declare([*crew, *team])
    offer(store, MANY)
    offer(store, 40, "team", "of-team")
    worker = worker_of([*crew, *team])
    store.join(worker)
    begin_to_pause(store)
    shown = Counter((it.collection, it.paused) for it in store.stats().queues)
    assert shown == {("crew", True): MANY, ("team", False): 40}
    claimed: list[str] = []
    while raw.exists(f"{{{prefix}}}:changes"):
        claimed += [claim.queue for claim in claim_up_to(32, store, worker)]
    claimed += [claim.queue for claim in claim_all_of(store, worker, 40 - len(claimed))]
    assert sorted(claimed) == sorted(it.name for it in team)
    assert claim_up_to(1, store, worker) == []
    assert all(it.paused for it in store.stats().queues if it.collection == "crew")


def test_no_task_in_a_last_chance_runs_while_a_pause_is_applied(store: AnyStore) -> None:
    crew = queues(max_crashes=1)
    store.declare(crew)
    offer(store, MANY)
    dying, worker = worker_of(crew, "dying"), worker_of(crew)
    store.join(dying)
    begun = [claim.task_id for claim in claim_all_of(store, dying, 64)]
    store.join(worker)
    bury: Any = store
    bury.bury(dying, begun)
    begin_to_pause(store)
    assert claim_up_to(1, store, worker) == []


def test_a_collection_whose_runs_fail_is_stopped_at_once_however_many_agents_it_has(
    store: AnyStore,
) -> None:
    crew = queues()
    store.declare(crew)
    offer(store, MANY)
    worker = worker_of(crew)
    store.join(worker)
    claims = claim_up_to(3, store, worker)
    failure = RunFailure("boom", 3)
    store.settle(
        [Settlement(it, "complete", b"{}", "agent_error", failure=failure) for it in claims]
    )
    assert [it.collection for it in store.take_tripped()] == ["crew"]
    assert claim_up_to(32, store, worker) == []


def test_a_run_with_a_higher_budget_goes_on_with_all_of_its_tasks(store: AnyStore) -> None:
    declared = [Queue("crew_0", "crew", 10_000, 10_000)]
    store.declare(declared)
    worker = worker_of(declared, slots=10_000)
    store.join(worker)
    for run in ("a", "v1", "v1-b", "z"):
        store.set_budget("run", run, Budget(usd=1.0))
        offer(store, 1, name=f"{run}/first")
        (claim,) = claim_up_to(1, store, worker)
        store.settle([Settlement(claim, "complete", b"{}", "ok", usd=2.0)])
        offer(store, PARKED, name=f"{run}/t")
        while store.stats().waiting:
            assert claim_up_to(100, store, worker) == []
    assert store.stats().queues[0].parked == 4 * PARKED
    with runs_of_scripts(store) as calls:
        store.set_budget("run", "v1", Budget(usd=5.0))
    assert calls["apply_changes"] > 1
    assert store.stats().queues[0].parked == 3 * PARKED
    claimed = claim_all_of(store, worker, 4 * PARKED)
    assert sorted(it.task_id for it in claimed) == sorted(f"v1/t-{it}" for it in range(PARKED))


@pytest.fixture
def many_running(store: AnyStore) -> AnyStore:
    """A store with ``MANY`` running tasks of a large and a small worker, and waiting ones."""
    limits: dict[str, Any] = {
        "max_waiting": MANY,
        "concurrency": MANY,
        "concurrency_group_limit": 2 * MANY,
    }
    crew = queues(10, concurrency_group="key", **limits)
    store.declare(crew)
    offer(store, MANY + 5)
    for name, number in (("large", MANY - 50), ("small", 50)):
        worker = worker_of(crew, name, slots=MANY)
        store.join(worker)
        assert len(claim_all_of(store, worker, number)) == number
    return store


def test_many_running_tasks_are_read_in_several_calls(many_running: AnyStore) -> None:
    with runs_of_scripts(many_running) as calls:
        found = many_running.tasks(TaskQuery("running"))
    assert calls["find"] > 2
    assert len({task.task_id for task in found}) == len(found) == MANY
    assert [task.number for task in found] == sorted(task.number for task in found)
    (one,) = many_running.tasks(TaskQuery("running", task_ids=["t-7"]))
    assert one.task_id == "t-7"
    of_one = many_running.tasks(TaskQuery("running", queues=["crew_3"]))
    assert 0 < len(of_one) < MANY
    assert {task.queue for task in of_one} == {"crew_3"}


def test_a_place_names_the_oldest_of_many_running_tasks(many_running: AnyStore) -> None:
    with runs_of_scripts(many_running) as calls:
        found = many_running.locate(f"t-{MANY + 1}")
    assert calls["locate"] == 1
    assert calls["runs_beside"] > 2
    assert found.place == "waiting"
    assert found.agent is not None
    (runs, of_group) = (found.agent.runs, found.agent.group_runs)
    assert (len(runs), len(of_group)) == (20, 20)
    assert {run.queue for run in runs} == {found.agent.queue}
    assert [run.since for run in of_group] == sorted(run.since or 0.0 for run in of_group)
    running = many_running.locate("t-3")
    assert running.run is not None
    assert (running.run.task_id, running.run.worker) == ("t-3", "large")


def test_running_tasks_are_cancelled_without_reading_the_others(
    many_running: AnyStore, raw: redis.Redis
) -> None:
    ids = ["t-3", "t-4", f"t-{MANY + 1}", "unknown"]
    before = raw.info("commandstats")
    assert many_running.cancel(ids) == ["signalled", "signalled", "waiting", "unknown"]
    after = raw.info("commandstats")
    read = {
        name for name in after if after[name]["calls"] > before.get(name, {"calls": 0})["calls"]
    }
    assert not {"cmdstat_hkeys", "cmdstat_hgetall"} & read


def test_tasks_of_removed_agents_are_found_behind_many_delayed_ones(
    store: AnyStore, raw: redis.Redis
) -> None:
    store.declare([Queue("crew_0", "crew", 100, 1), Queue("team_0", "team", 30_000, 1)])
    offer(store, 25_000, "team", "others", delay_s=100.0)
    offer(store, 5, delay_s=200.0)
    store.declare([Queue("crew_1", "crew", 100, 1)])
    before = scans(raw)
    with runs_of_scripts(store) as calls:
        assert rebalance(store, "crew").moved == 5
    assert calls["move"] > 1
    # The order of a scan is random: how many calls find them all is, too.
    assert scans(raw) - before <= 2 * calls["move"]
    found = {queue.queue: queue.delayed for queue in store.stats().queues}
    assert found == {"crew_1": 5, "team_0": 25_000}
    assert store.move("crew", ["crew_0"], 100) == 0


def scans(raw: redis.Redis) -> int:
    stats: Any = raw.info("commandstats")
    return int(stats.get("cmdstat_zscan", {"calls": 0})["calls"])


def test_tasks_are_moved_although_others_fall_due_between_the_calls(store: Any) -> None:
    """Regression: tasks at the ranks of those that had fallen due were passed over."""
    team = Queue("team_0", "team", 20_000, 1)
    store.declare([Queue("crew_0", "crew", 1_000, 1), team])
    offer(store, 8_100, "team", "others", delay_s=0.001)
    offer(store, 5, delay_s=200.0)
    store.declare([Queue("crew_1", "crew", 1_000, 1)])
    worker = worker_of([team], slots=MANY)
    store.join(worker)
    scripts = store._scripts  # noqa: SLF001 - a claim between two calls
    run = scripts.run

    def run_and_claim(name: str, *args: Any, **options: Any) -> Any:
        found = run(name, *args, **options)
        if name == "move":
            claim_up_to(1, store, worker)
        return found

    scripts.run = run_and_claim
    assert rebalance(store, "crew").to_dict() == {
        "collection": "crew",
        "agents": ["crew_0"],
        "moved": 5,
        "left": 0,
        "dry_run": False,
    }


def test_a_full_group_of_many_agents_says_how_full_it_is(store: AnyStore) -> None:
    store.declare(queues(max_waiting=1))
    offer(store, MANY)
    refused = store.offer("crew", [Offer("more", b"{}")], round_robin=True)
    assert (refused.verdicts, refused.depth, refused.bound) == (("refused",), MANY, MANY)


def test_a_cooldown_of_many_agents_begins_for_each_of_them(store: AnyStore) -> None:
    crew = queues()
    store.declare(crew)
    offer(store, MANY)
    worker = worker_of(crew)
    store.join(worker)
    (claim,) = claim_up_to(1, store, worker)
    others = tuple(it.name for it in crew)
    with runs_of_scripts(store) as calls:
        given = Settlement(claim, "cooldown", delay_s=60.0, cooldown_queues=others)
        assert store.settle([given]) == [True]
    assert calls["hold"] > 2
    assert claim_up_to(32, store, worker) == []
    assert all((it.cooldown_s or 0) > 30 for it in store.stats().queues)
    assert store.stats().waiting == MANY


def test_workers_that_died_with_many_tasks_are_ended_part_by_part(store: AnyStore) -> None:
    crew = queues(10, max_waiting=MANY, concurrency=MANY)
    store.declare(crew)
    offer(store, MANY)
    alive = worker_of(crew, "alive", slots=MANY)
    store.join(alive)
    for name in ("one", "two", "three"):
        dying = worker_of(crew, name, slots=MANY)
        store.join(dying)
        assert len(claim_all_of(store, dying, MANY // 3)) == MANY // 3
    for name in ("one", "two", "three"):
        store.heartbeat(replace(alive, name=name, lease_s=0.0))
    store.cancel(["unknown"])
    assert store.stats().waiting == 500
    claimed = claim_all_of(store, alive, MANY)
    assert {claim.crashes for claim in claimed} == {1}
    assert len(claimed) == MANY

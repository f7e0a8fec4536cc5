"""RabbitMQ only: runs that outlive a connection, changed limits, and its statistics."""

from __future__ import annotations

import asyncio
import itertools
import time
import uuid
from collections import Counter
from contextlib import closing, suppress
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pika
import pytest

from agentpipe.brokers import open_store
from agentpipe.brokers.dead_letter import DeadFilter
from agentpipe.brokers.rabbitmq import RabbitStore, registry
from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from brokers.server_rabbitmq import RabbitServer
from tests.stores import claim_up_to, open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable

    from agentpipe.brokers.base import Store
    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.records import Claim
    from tests.integration.project import Project
    from tests.stores import AnyStore


YEAR_S = 365 * 86_400
MORE_THAN_AMQP_TELLS = ("accepted", "delivered", "outbox_bytes")


@pytest.fixture
def broker_url(rabbit_url: str) -> str:
    return rabbit_url


@pytest.mark.long
class TestOnItsOwnServer:
    @pytest.fixture
    def server(self, own_server: object) -> RabbitServer:
        return own_server(RabbitServer)  # type: ignore[operator,no-any-return]

    @pytest.fixture
    def broker_url(self, server: RabbitServer) -> str:
        return server.url

    def test_what_runs_goes_on_over_a_restart_of_the_server(
        self, project: Project, server: RabbitServer
    ) -> None:
        project.environ["AGENTPIPE_LEASE_S"] = "30"
        project.collection(number=2, concurrency=2)
        fleet = project.work("--processes", "2").ready(2)
        project.send(*["sleep 14"] * 4)
        wait_until(lambda: len(project.journal("started")) == 4, 30, "all run")
        server.stop()
        server.start()
        wait_until(lambda: len(project.results()) == 4, 60, "all are answered")
        assert fleet.stop() == 0
        runs = Counter(entry["task_id"] for entry in project.journal("started"))
        assert set(runs.values()) == {1}
        assert {result["attempt"] for result in project.results()} == {1}


def test_agents_are_shared_out_over_the_processes(project: Project) -> None:
    project.collection(number=8)
    project.work("--processes", "2").ready(2)

    batches = itertools.count()

    def both_work() -> bool:
        batch = project.tasks(*["echo hi"] * 8, name=f"batch-{next(batches)}.jsonl")
        project.ok("send", "toys", "--file", batch)
        return len({entry["pid"] for entry in project.journal("started")}) == 2

    wait_until(both_work, 30, "both processes run tasks")


NO_STATE = (
    *(b"", b"\xff", b"[]", b"{}", b"null", b'"x"', b"[5]", b'{"a": "b"}', b'{"a": {"b": 1}}'),
    b'[{"collection": "toys", "queues": [5], "bounds": [1], "concurrency": 1, "max_crashes": 1}]',
    b'[{"collection": "toys", "queues": [], "bounds": ["x"], "concurrency": 1, "max_crashes": 1}]',
)


@pytest.mark.long
def test_what_others_put_among_shared_state_is_skipped(project: Project, broker_url: str) -> None:
    url, _, prefix = broker_url.partition("?prefix=")
    project.collection()
    fleet = project.work("--processes", "1").ready(1)
    project.send("echo first")
    project.until(delivered=1)
    with pika.BlockingConnection(pika.URLParameters(url)) as connection:
        for name in ("registry", "cancels", "suspects", "verdicts", "calendar", "runs", "run.r"):
            queue = Topology(prefix).shared(name).name
            for payload in NO_STATE:
                connection.channel().basic_publish("", queue, payload)
    project.ok("send", "toys", "echo named", "--run", "r")
    for command in ("status", "doctor", "runs", "dead list", "pause toys", "resume toys"):
        done = project.run(*command.split())
        assert "Traceback" not in done.err, (command, done.err)
        assert done.code == 0, (command, done.err)
    project.until(delivered=2)
    assert fleet.stop() == 0
    assert "Traceback" not in fleet.log
    assert "took less of it" not in fleet.log
    assert {result["outcome"] for result in project.by_id().values()} == {"ok"}


@pytest.mark.long
def test_status_has_null_for_what_amqp_cannot_tell(project: Project) -> None:
    project.collection(number=2)
    project.send("echo one", "echo two")
    project.burst("--processes", "1")
    status = project.ok("status", "--json").json
    assert {name: status[name] for name in MORE_THAN_AMQP_TELLS} == dict.fromkeys(
        MORE_THAN_AMQP_TELLS
    )
    assert status["outcomes"] == {}  # Only its workers knew, and they have ended.
    assert [agent["delayed"] for agent in status["agents"]] == [None, None]
    known = ("waiting", "delayed", "running", "outbox", "dead")
    assert {name: status[name] for name in known} == dict.fromkeys(known, 0)
    assert "delivered ?" in project.ok("status").out


@pytest.mark.long
def test_agents_with_room_are_counted_without_the_server(project: Project) -> None:
    project.collection(number=4, concurrency=2)
    fleet = project.work("--processes", "1").ready(1)
    store = project.open_store()

    def asked() -> int:
        return store.stats().requests

    wait_until(lambda: asked() == 0, 30, "workers know that nothing waits")
    project.send(*["wait-for-file end"] * 8, *["echo"] * 8)
    full = store.stats()
    assert (full.waiting or 0) + (full.running or 0) + (full.outbox or 0) == 16
    wait_until(lambda: asked() == 8, 30, "each agent has two queues, and no room")
    project.ok("pause", "toys_0")
    (project.folder / "end").touch()
    project.until(delivered=14, waiting=2, running=0)
    wait_until(lambda: asked() == 2, 30, "nothing is consumed from what is paused")
    project.ok("resume", "toys_0")
    project.until(delivered=16, waiting=0, running=0)
    wait_until(lambda: asked() == 0, 30, "it is consumed again")
    store.close()
    assert fleet.stop() == 0


def test_the_management_api_tells_how_large_the_outbox_is(
    project: Project, rabbitmq_server: RabbitServer, broker_url: str
) -> None:
    project.collection()
    project.environ["AGENTPIPE_BROKER"] = (
        f"{broker_url}&management={rabbitmq_server.management_url}"
    )
    project.send("echo hi")
    assert project.ok("status", "--json").json["outbox_bytes"] == 0
    wrong = f"{broker_url}&management=http://guest:wrong-one@127.0.0.1:1"
    done = project.run("status", "--broker", wrong)
    assert done.code == 4
    assert "management" in done.err
    assert "wrong-one" not in done.err


@pytest.mark.long
def test_a_changed_bound_is_another_queue_and_the_old_one_is_served(project: Project) -> None:
    project.collection(number=1, max_queue_size=3)
    project.ok("send", "toys", "--file", project.tasks(*["echo old"] * 3, name="old.jsonl"))
    fleet = project.work("--processes", "1").ready(1)
    wait_until(lambda: len(project.results()) == 3, 30, "what waits is answered")
    (project.folder / "collection.yaml").unlink()
    project.collection(number=1, max_queue_size=50)
    project.ok("send", "toys", "--file", project.tasks(*["echo new"] * 50, name="new.jsonl"))
    wait_until(lambda: len(project.results()) == 53, 30, "the running worker serves the new bound")
    assert fleet.stop() == 0
    (agent,) = project.ok("status", "--json").json["agents"]
    assert agent["limit"] == 50


@pytest.mark.long
def test_what_waits_under_the_old_bound_counts_against_the_new_one(project: Project) -> None:
    project.collection(number=1, max_queue_size=3)
    project.ok("send", "toys", "--file", project.tasks(*["echo old"] * 3, name="old.jsonl"))
    (project.folder / "collection.yaml").unlink()
    project.collection(number=1, max_queue_size=4)
    more = project.tasks(*["echo new"] * 3, name="new.jsonl")
    sent = project.run("send", "toys", "--file", more, "--json")
    assert (sent.code, sent.json["accepted"], sent.json["refused"]) == (5, 1, 2)
    project.burst("--processes", "1")
    assert len(project.results()) == 4


@pytest.mark.long
def test_replicated_queues_do_the_same(project: Project, broker_url: str) -> None:
    project.environ["AGENTPIPE_BROKER"] = f"{broker_url}&queues=quorum"
    project.collection(number=2, max_retries=1)
    project.send("echo hi", "echo there", "infra")
    project.burst("--processes", "1")
    outcomes = Counter(result["outcome"] for result in project.results())
    assert outcomes == {"ok": 2, "infra_error": 1}
    assert project.ok("dead", "list", "--json").json["total"] == 1


@pytest.mark.long
def test_queues_of_another_kind_are_told_and_left_alone(project: Project, broker_url: str) -> None:
    project.collection()
    project.send("echo hi")
    quorum = {"AGENTPIPE_BROKER": f"{broker_url}&queues=quorum"}
    done = project.run("send", "toys", "echo more", env=quorum)
    assert done.code == 1
    assert "?prefix=" in done.err
    assert done.err.count("\n") <= 2
    project.burst("--processes", "1")
    assert len(project.results()) == 1


@pytest.mark.long
def test_deleted_queues_are_made_again_under_a_running_worker(
    project: Project, broker_url: str
) -> None:
    prefix = broker_url.partition("prefix=")[2]
    project.collection(number=1)
    fleet = project.work("--processes", "1").ready(1)
    project.send("echo before")
    wait_until(lambda: len(project.results()) == 1, 30, "the first is answered")
    connection = pika.BlockingConnection(pika.URLParameters(broker_url.partition("?")[0]))
    channel = connection.channel()
    for name in ("toys_0.in.100", "toys_0.back", "outbox", "registry"):
        channel.queue_delete(f"{prefix}.{name}")
    connection.close()
    project.ok("send", "toys", "--file", project.tasks("echo after", name="after.jsonl"))
    wait_until(lambda: len(project.results()) == 2, 30, "the worker goes on")
    wait_until(lambda: "was deleted under worker" in fleet.log, 30, "the worker says so")
    assert fleet.stop() == 0


@pytest.mark.long
def test_a_cancelled_task_that_waits_is_answered_at_its_turn_and_never_runs(
    project: Project,
) -> None:
    """One waits behind a running task, one in a paused queue until a worker starts."""
    project.collection("toys")
    project.collection("paused")
    project.ok("pause", "paused")
    fleet = project.work("--processes", "1").ready(1)
    for name, question in (("toys", "sleep 600"), ("toys", "echo"), ("paused", "echo")):
        task = {"question": question, "task_id": f"{name}-{question[:4]}"}
        project.ok("send", name, "--file", project.tasks(task, name=f"{name}-{question}.jsonl"))
        if question != "echo":
            project.until(running=1)
    waiting = ["paused-echo", "strange", "toys-echo"]
    assert project.ok("cancel", "--json", *waiting).json["told"] == waiting
    assert project.by_id() == {}
    signalled = "{} running ones signalled; those that wait are answered at their turn\n"
    assert project.ok("cancel", *waiting).out == f"0 cancelled, {signalled.format(0)}"
    assert project.ok("cancel", "toys-slee").out == "0 cancelled, 1 running ones signalled\n"
    project.until(delivered=2)
    assert fleet.stop() == 0
    project.ok("resume", "paused")
    project.burst("--processes", "1")
    outcomes = {task_id: result["outcome"] for task_id, result in project.by_id().items()}
    assert outcomes == dict.fromkeys(["paused-echo", "toys-echo", "toys-slee"], "cancelled")
    assert [entry["task_id"] for entry in project.journal("started")] == ["toys-slee"]


# Dead letters in several portions.


@pytest.fixture
def graves(project: Project, monkeypatch: pytest.MonkeyPatch) -> Callable[[], AnyStore]:
    """Open the project's store with 20 dead letters; each read takes portions of 3."""
    monkeypatch.setattr("agentpipe.brokers.rabbitmq.dead_letters.PORTION", 3)
    project.collection(max_retries=0, breaker=0)
    project.send(*[{"task_id": f"t-{n:02}", "question": "infra"} for n in range(20)])
    project.burst("--processes", "1")
    return project.open_store


def all_dead(store: AnyStore, after: str | None = "", **wanted: Any) -> list[str]:
    found: list[str] = []
    while after is not None:
        page = store.dead_letters(DeadFilter(**wanted), after, 100)
        assert len(page.letters) <= 3
        found += [letter.task_id for letter in page.letters]
        after = page.after
    return sorted(found)


DEAD = [f"t-{number:02}" for number in range(20)]


@pytest.mark.long
def test_a_look_of_several_portions_sees_each_letter_once(graves: Callable[[], AnyStore]) -> None:
    with closing(graves()) as store:
        assert all_dead(store) == DEAD
        assert all_dead(store, error="nothing") == []
        assert sorted(each.task_id for each in store.read_dead(["t-17", "t-02"])) == [
            "t-02",
            "t-17",
        ]
        assert store.count_dead(DeadFilter()) == store.stats().dead == 20
        assert store.drop_dead(["t-19", "t-00", "strange"]) == 2
        assert all_dead(store) == DEAD[1:-1]


@pytest.mark.long
def test_another_process_goes_on_at_the_place_and_where_its_letter_was_dropped(
    graves: Callable[[], AnyStore],
) -> None:
    with closing(graves()) as store:
        first = store.dead_letters(DeadFilter(), "", 3)
        second = store.dead_letters(DeadFilter(), first.after or "", 3)
        seen = [letter.task_id for letter in (*first.letters, *second.letters)]
    assert len(set(seen)) == 6
    with closing(graves()) as store:
        assert all_dead(store, second.after) == sorted(set(DEAD) - set(seen))
        assert store.drop_dead(seen) == 6
    with closing(graves()) as store:
        # Letters of the same millisecond can be repeated, but none is missing.
        assert all_dead(store, second.after) == sorted(set(DEAD) - set(seen))


def test_a_snapshot_counts_what_waits_beside_queues_that_are_not_made(broker_url: str) -> None:
    """Each missing queue costs a channel: one by one, 4,000 took over a minute."""
    queues = [Queue(f"q{number}", None, 10, 1, 3) for number in range(150)]
    filled = {"q0", "q70", "q71", "q149"}
    with closing(open_store(Settings(broker=broker_url))) as store:
        store.declare(queues)
        for name in filled:
            store.offer(name, [Offer(f"in-{name}", b"{}")], round_robin=False)
        depths = store.stats().queues
    assert len(depths) == len(queues)
    assert {depth.queue for depth in depths if depth.waiting == 1} == filled
    assert sum(depth.waiting or 0 for depth in depths) == len(filled)


def test_what_a_clock_that_was_ahead_declared_can_be_changed(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a changed collection was ignored until the clock had caught up."""
    ahead = SimpleNamespace(time=lambda: time.time() + YEAR_S, monotonic=time.monotonic)
    settings = Settings(broker=broker_url)
    with monkeypatch.context() as patch, closing(open_any(settings)) as store:
        patch.setattr(registry, "time", ahead)
        _declare(store, [Queue("toys_0", "toys", 1)])
        store.pause(queues=["toys_0"], paused=True)
    with closing(open_any(settings)) as store:
        _declare(store, [Queue("toys_0", "toys", 5), Queue("toys_1", "toys", 5)])
        store.pause(queues=["toys_0"], paused=False)
    with closing(open_any(settings)) as store:
        found = {each.queue: (each.limit, each.paused) for each in store.stats().queues}
    assert found == {"toys_0": (5, False), "toys_1": (5, False)}


def _declare(store: AnyStore, queues: list[Queue]) -> None:
    store.declare(queues)
    offers = [Offer(uuid.uuid4().hex, b"{}")]
    assert store.offer("toys", offers, round_robin=True).verdicts == ("accepted",)


def test_a_batch_that_is_sent_in_parts_is_bounded_as_a_whole(broker_url: str) -> None:
    with closing(open_store(Settings(broker=broker_url))) as store:
        store.declare([Queue("toys", None, 250, 1, 3)])
        sent = store.offer("toys", [Offer(str(n), b"{}") for n in range(450)], round_robin=False)
        assert Counter(sent.verdicts) == {"accepted": 250, "refused": 200}
        assert sent.verdicts[:250] == ("accepted",) * 250
        (depth,) = store.stats().queues
        assert depth.waiting == 250


def test_what_is_looked_at_goes_back_by_itself(
    graves: Callable[[], AnyStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    """This includes messages that arrive after the hold time, as from a slow server."""
    monkeypatch.setattr("agentpipe.brokers.rabbitmq.dead_letters.HOLD_S", 0)
    with closing(graves()) as looker, closing(graves()) as other:
        looker.dead_letters(DeadFilter(), "", 3)
        wait_until(lambda: other.count_dead(DeadFilter()) == 20, 10, "all are back")


def test_what_is_settled_as_its_connection_ends_is_settled_by_the_next(broker_url: str) -> None:
    """Regression: the settlement counted as lost; the task ran forever and blocked its agent."""
    queue, worker = (
        Queue("toys", None, 10, 1, 3),
        Worker("w", queues=frozenset({"toys"}), lease_s=60),
    )
    with closing(open_store(Settings(broker=broker_url))) as store:
        assert isinstance(store, RabbitStore)
        store.declare([queue])
        store.offer("toys", [Offer("a", b"{}")], round_robin=False)
        store.join(worker)
        (claimed,) = wait_until(lambda: claim_up_to(1, store, worker), 30, "a claim")
        answer = [Settlement(claimed, "complete", b"{}", "ok")]

        async def settle_without_connection(services: Services) -> None:
            settling = store._workers["w"].settling  # noqa: SLF001 - stands for an earlier call
            session = services.connection.session
            async with settling.at_rest():
                late = asyncio.ensure_future(settling.settle(answer))
                session.close()
                await session.ended()
            await late

        with pytest.raises(Unreachable, match="ended before that was settled"):
            store._run(settle_without_connection)  # noqa: SLF001 - runs on the store's loop

        def settled() -> list[bool]:
            with suppress(Unreachable):
                return store.settle(answer)
            return []

        assert wait_until(settled, 30, "the next connection settles it") == [True]


def test_first_offers_are_left_on_the_server_while_returned_tasks_wait(broker_url: str) -> None:
    """Regression: after each worker's death they followed returned tasks, and counted a crash."""
    queue = Queue("toys", None, 10, 1, 9)
    with closing(open_store(Settings(broker=broker_url))) as store:
        store.declare([replace(queue, concurrency=2)])
        store.offer("toys", [Offer(task_id, b"{}") for task_id in "ab"], round_robin=False)
        first = _joined(store)
        both: list[Claim] = []
        for _ in "ab":
            both += wait_until(lambda: claim_up_to(1, store, first), 30, "a claim")
        assert store.settle([Settlement(each, "release") for each in both]) == [True, True]
        store.leave(first)
        store.declare([queue])
        store.offer("toys", [Offer("c", b"{}")], round_robin=False)
        for _ in "ab":  # A task with two crashes would move back.
            _claim_and_die(broker_url, queue)
        last = _joined(store)
        claims: list[Claim] = []
        for _ in "abc":
            claims += wait_until(lambda: claim_up_to(1, store, last), 30, "a claim")
            assert store.settle([Settlement(claims[-1], "complete", b"{}", "ok")]) == [True]
    assert [it.task_id for it in claims][-1] == "c"
    assert {it.task_id: it.crashes for it in claims}["c"] == 0
    assert sum(it.crashes for it in claims) == 2


def _joined(store: Store) -> Worker:
    worker = Worker(f"w-{uuid.uuid4().hex}", queues=frozenset({"toys"}), lease_s=60)
    store.join(worker)
    return worker


def _claim_and_die(broker_url: str, queue: Queue) -> None:
    with closing(open_store(Settings(broker=broker_url))) as store:
        store.declare([queue])
        worker = _joined(store)
        wait_until(lambda: claim_up_to(1, store, worker), 30, "a claim")

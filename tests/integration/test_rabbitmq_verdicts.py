"""On RabbitMQ, a worker's supervisor decides for which tasks its end counts as a crash."""

from __future__ import annotations

import os
import signal
import uuid
from contextlib import closing, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import pika
import pytest

from agentpipe.brokers import open_store
from agentpipe.brokers.rabbitmq import RabbitStore, shared_state, verdicts
from agentpipe.brokers.rabbitmq.ahead import unread
from agentpipe.brokers.rabbitmq.messages import now_ms
from agentpipe.brokers.rabbitmq.topology import Topology
from agentpipe.brokers.records import Offer, Queue, Settlement, Worker
from agentpipe.core.delivered import Delivered
from agentpipe.settings import Settings
from agentpipe.worker.watch.last_word import LastWordFile
from tests.integration.proxy import Proxy
from tests.integration.rabbit_delays import skipped_delays
from tests.stores import claim_up_to
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from agentpipe.brokers.rabbitmq.services import Services
    from agentpipe.brokers.records import Claim
    from brokers.server_rabbitmq import RabbitServer
    from tests.integration.project import Project

AGENTS = 4
TASKS = ("culprit", "neighbour", "unknown")
# A limit of crashes that no test reaches.
MANY = 100
# Longer than any test: a task without a verdict would count a crash only after it.
LONG_S = 600.0


@pytest.fixture
def broker_url(rabbit_url: str) -> str:
    return rabbit_url


@contextmanager
def opened(broker_url: str, max_crashes: int = 5) -> Iterator[RabbitStore]:
    with closing(open_store(Settings(broker=broker_url))) as store:
        assert isinstance(store, RabbitStore)
        store.declare([Queue("one", None, 100, 10, max_crashes=max_crashes)])
        yield store


@contextmanager
def working(broker_url: str, max_crashes: int = 5) -> Iterator[tuple[RabbitStore, Worker]]:
    """A worker that dies at the end: it closes the connection without leaving."""
    with opened(broker_url, max_crashes) as store:
        worker = Worker(f"w-{uuid.uuid4().hex}", slots=10, queues=frozenset({"one"}), lease_s=60)
        store.join(worker)
        yield store, worker


def claimed(store: RabbitStore, worker: Worker, number: int) -> dict[str, Claim]:
    found: dict[str, Claim] = {}

    def all_there() -> bool:
        found.update({claim.task_id: claim for claim in claim_up_to(10, store, worker)})
        return len(found) == number

    wait_until(all_there, 30, f"{number} claims")
    return found


def first(*task_ids: str) -> list[Delivered]:
    """The first delivery of each of these tasks, which all run."""
    return [Delivered(task_id, 0, begun=True) for task_id in task_ids]


def had(store: RabbitStore, worker: Worker) -> list[Delivered]:
    """The deliveries that a worker has claimed."""
    held = store._workers[worker.name]._deliveries.held.values()  # noqa: SLF001 - as the worker's last word reads it
    return [each.message.delivered for each in held]


def die_with_all(broker_url: str) -> None:
    with working(broker_url) as (store, worker):
        store.offer("one", [Offer(task_id, b"{}") for task_id in TASKS], round_robin=False)
        claimed(store, worker, len(TASKS))


def test_what_is_said_before_a_worker_takes_the_tasks(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task without a verdict counts a crash after some time."""
    die_with_all(broker_url)
    monkeypatch.setattr(verdicts, "PATIENCE_S", 0.1)
    with opened(broker_url) as watcher:
        watcher.spare(first("neighbour"), first("culprit"))
    with working(broker_url) as (store, worker):
        found = claimed(store, worker, len(TASKS))
        assert {it.task_id: it.crashes for it in found.values()} == {
            "culprit": 1,
            "neighbour": 0,
            "unknown": 1,
        }


def test_what_is_said_when_a_worker_has_the_tasks_already(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_with_all(broker_url)
    monkeypatch.setattr(verdicts, "PATIENCE_S", LONG_S)
    with working(broker_url) as (store, worker), opened(broker_url) as watcher:
        agents = store._workers[worker.name]._deliveries.agents  # noqa: SLF001 - no public name shows it
        wait_until(
            lambda: "one" in agents and agents["one"].judging == len(TASKS), 30, "all are here"
        )
        assert claim_up_to(10, store, worker) == []
        watcher.spare(first("neighbour", "unknown"), first("culprit"))
        found = claimed(store, worker, len(TASKS))
        assert {it.task_id: it.crashes for it in found.values()} == {
            "culprit": 1,
            "neighbour": 0,
            "unknown": 0,
        }
        assert store.settle([Settlement(it, "complete", b"{}", "ok") for it in found.values()])


def test_the_last_verdict_on_a_task_counts_and_only_once(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    die_with_all(broker_url)
    monkeypatch.setattr(verdicts, "PATIENCE_S", 0.1)
    with opened(broker_url) as watcher:
        watcher.spare(first(*TASKS), [])
        watcher.spare(first("neighbour", "unknown"), first("culprit"))
    with working(broker_url) as (store, worker):
        found = claimed(store, worker, len(TASKS))
        assert [found[task_id].crashes for task_id in TASKS] == [1, 0, 0]


def test_a_verdict_on_an_earlier_end_says_nothing_of_the_next_one(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: all workers kept the verdict, and the next one blamed the tasks again at once."""
    die_with_all(broker_url)
    monkeypatch.setattr(verdicts, "PATIENCE_S", LONG_S)
    with opened(broker_url) as watcher:
        watcher.spare([], first(*TASKS))
        with working(broker_url) as (store, worker):
            claimed(store, worker, len(TASKS))
            there = had(store, worker)
        with working(broker_url) as (store, worker):
            agents = store._workers[worker.name]._deliveries.agents  # noqa: SLF001 - no public name shows it
            wait_until(
                lambda: "one" in agents and agents["one"].judging == len(TASKS), 30, "all are here"
            )
            watcher.spare(there, [])
            found = claimed(store, worker, len(TASKS))
            assert {it.crashes for it in found.values()} == {1}


def test_a_culprit_comes_back_behind_those_that_it_takes_with_it(broker_url: str) -> None:
    """Regression: it came first each time, and ended the worker before the others ran."""
    die_with_all(broker_url)
    known = Delivered("culprit", 0, begun=True, culprit=True)
    with opened(broker_url) as watcher:
        watcher.spare(first("neighbour", "unknown"), [known])
    with working(broker_url) as (store, worker):
        found = claimed(store, worker, len(TASKS))
        assert list(found) == ["neighbour", "unknown", "culprit"]
        store.settle([Settlement(it, "complete", b"{}", "ok") for it in found.values()][:2])
        store.offer("one", [Offer("new", b"{}")], round_robin=False)
        found |= claimed(store, worker, 1)
        there = {each.task_id: each for each in had(store, worker)}
        new = there["new"]._replace(begun=True)
        store.spare([new], [there["culprit"]])  # As the worker's supervisor does.
    with working(broker_url) as (store, worker):
        assert list(claimed(store, worker, 2)) == ["new", "culprit"]


def test_a_task_comes_back_later_after_each_crash(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: it came back after 2 s each time, and its agent did little else."""
    delays = skipped_delays(monkeypatch)
    with opened(broker_url, MANY) as store:
        store.offer("one", [Offer("culprit", b"{}")], round_robin=False)
    for crashes in range(6):
        with working(broker_url, MANY) as (store, worker):
            assert claimed(store, worker, 1)["culprit"].crashes == crashes
            store.spare([], had(store, worker))  # As the worker's supervisor does.
    assert delays == [2.0, 4.0, 8.0, 16.0]


def test_tasks_whose_worker_dies_beside_others_are_not_delayed_longer_each_time(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: a task that only happened to run there waited for half a minute."""
    delays = skipped_delays(monkeypatch)
    with opened(broker_url, MANY) as store:
        store.offer("one", [Offer(task_id, b"{}") for task_id in TASKS], round_robin=False)
    for _ in range(5):
        with working(broker_url, MANY) as (store, worker):
            claimed(store, worker, len(TASKS))
            store.spare([], had(store, worker))  # As the worker's supervisor does.
    assert set(delays) == {2.0}


HOUR_MS = 3_600_000


@pytest.mark.parametrize("wrong_ms", [-HOUR_MS, HOUR_MS])
def test_verdicts_of_machines_with_wrong_clocks_count_like_others(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, wrong_ms: int
) -> None:
    """Regression: one from a machine behind by a minute was dropped, or taken for an older one."""
    die_with_all(broker_url)
    monkeypatch.setattr(verdicts, "PATIENCE_S", 0.1)
    for its_wrong_ms in (wrong_ms, 0):
        with opened(broker_url) as watcher, monkeypatch.context() as clock:
            clock.setattr(verdicts, "now_ms", lambda wrong=its_wrong_ms: now_ms() + wrong)
            watcher.spare(first(*TASKS), [])
        with working(broker_url) as (store, worker):
            found = claimed(store, worker, len(TASKS))
            assert {it.crashes for it in found.values()} == {0}


def test_a_verdict_does_not_wait_for_others_that_read(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Regression: of 48 watchers of a common death, 20 were too late."""
    monkeypatch.setattr(shared_state, "LOCK_S", 1.0)
    die_with_all(broker_url)
    url, _, prefix = broker_url.partition("?prefix=")
    lock = f"{Topology(prefix).shared('verdicts').name}.lock"
    with (
        opened(broker_url) as watcher,
        closing(pika.BlockingConnection(pika.URLParameters(url))) as other,
    ):
        other.channel().queue_declare(lock, exclusive=True)
        watcher.spare(first(*TASKS), [])
    with working(broker_url) as (store, worker):
        found = claimed(store, worker, len(TASKS))
        assert {it.crashes for it in found.values()} == {0}


def test_verdicts_leave_the_server_after_a_while(
    broker_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verdicts, "KEPT_S", 0.5)
    with opened(broker_url) as watcher:
        watcher.spare(first("neighbour"), [])
        watcher.spare([], first("culprit"))

    async def stored(services: Services) -> int:
        name = services.topology.shared("verdicts").name
        return (await services.queues.depths([name]))[name]

    with opened(broker_url) as store:
        wait_until(lambda: not store._run(stored), 30, "none is stored")  # noqa: SLF001 - no operation shows it


@pytest.mark.parametrize("is_late", [True, False])
@pytest.mark.parametrize("is_blame", [True, False])
def test_a_verdict_is_not_about_a_later_end(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, *, is_late: bool, is_blame: bool
) -> None:
    """Regression: a verdict that came after the judgement counted for an end in the next minute."""
    die_with_all(broker_url)
    monkeypatch.setattr(verdicts, "PATIENCE_S", 0.1)
    with opened(broker_url) as watcher:

        def say() -> None:
            watcher.spare(*([], first(*TASKS)) if is_blame else (first(*TASKS), []))

        if not is_late:
            say()
        with working(broker_url) as (store, worker):
            once = {it.crashes for it in claimed(store, worker, len(TASKS)).values()}
            if is_late:
                say()
            there = had(store, worker)
        if is_blame:
            watcher.spare(there, [])
        with working(broker_url) as (store, worker):
            twice = {it.crashes for it in claimed(store, worker, len(TASKS)).values()}
    counted = int(is_blame or is_late)
    assert (once, twice) == ({counted}, {counted + (not is_blame)})


@pytest.mark.parametrize("is_late", [True, False])
def test_what_a_worker_had_not_read_is_spared_once_its_end_is_reported(
    broker_url: str, monkeypatch: pytest.MonkeyPatch, *, is_late: bool
) -> None:
    """Regression: it had no verdict, and counted a crash after two seconds."""
    die_with_all(broker_url)
    with opened(broker_url) as watcher:

        def report() -> None:
            watcher.spare([unread("one")], first("culprit"))

        if not is_late:
            report()
        monkeypatch.setattr(verdicts, "PATIENCE_S", LONG_S)
        with working(broker_url) as (store, worker):
            if is_late:
                agents = store._workers[worker.name]._deliveries.agents  # noqa: SLF001 - no public name shows it
                wait_until(
                    lambda: "one" in agents and agents["one"].judging == len(TASKS), 30, "all wait"
                )
                report()
            once = {it: each.crashes for it, each in claimed(store, worker, len(TASKS)).items()}
            wait_until(lambda: not says(watcher, unread("one")), 30, "the report is carried out")
        monkeypatch.setattr(verdicts, "PATIENCE_S", 0.1)
        with working(broker_url) as (store, worker):
            twice = {it.crashes for it in claimed(store, worker, len(TASKS)).values()}
    assert once == {"culprit": 1, "neighbour": 0, "unknown": 0}
    assert twice == {1, 2}  # The report says nothing of the second end.


def says(store: RabbitStore, delivered: Delivered) -> bool:
    """Whether there is a verdict on the delivery that was not carried out, by the server."""

    async def read(services: Services) -> bool:
        await services.verdicts.read()
        return services.verdicts.is_open(delivered)

    return store._run(read)  # noqa: SLF001 - no operation shows it


def test_what_lay_unread_in_a_killed_workers_connection_counts_no_crash(project: Project) -> None:
    """Regression: its watcher did not know of it, and it counted a crash like a running task."""
    project.environ |= {"AGENTPIPE_LEASE_S": "120"}  # A stopped worker is not ended meanwhile.
    project.collection(number=1)
    fleet = project.work("--processes", "1").ready(1)
    project.send({"task_id": "read", "question": "echo a"})
    project.until(delivered=1)
    (worker,) = fleet.pids
    os.kill(worker, signal.SIGSTOP)
    project.send({"task_id": "unread", "question": "echo b"})
    wait_until(lambda: all_delivered(project), 30, "it is delivered")
    os.kill(worker, signal.SIGKILL)
    project.until(delivered=2)
    assert {result["attempt"] for result in project.by_id().values()} == {1}


@pytest.mark.long
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "stopped"])
def test_what_was_delivered_ahead_to_a_worker_counts_no_crash_when_that_ends(
    project: Project, kind: signal.Signals
) -> None:
    """Regression: a prefetched task, not started yet, counted a crash like a running one."""
    project.environ |= {"AGENTPIPE_SLOTS": "1", "AGENTPIPE_LEASE_S": "12"}
    project.collection(number=AGENTS)
    fleet = project.work("--processes", "1").ready(1)
    may_end = project.folder / "may-end"
    tasks = project.send(*[f"wait-for-file {may_end}"] * AGENTS)
    wait_until(
        lambda: project.journal("started") and all_read(project, tasks), 30, "all are delivered"
    )
    (begun,) = {entry["task_id"] for entry in project.journal("started")}
    os.kill(next(iter(fleet.pids)), kind)
    wait_until(lambda: len(project.journal("started")) == 2, 60, "another one runs")
    may_end.touch()
    project.until(delivered=AGENTS)
    again = kind == signal.SIGKILL  # A worker that was only stopped has no culprit.
    attempts = {task_id: result["attempt"] for task_id, result in project.by_id().items()}
    assert attempts.pop(begun) == 1 + again
    assert {*attempts.values()} == {1}


@pytest.mark.long
def test_a_run_that_has_ended_counts_no_crash_while_it_is_settled(
    project: Project, rabbitmq_server: RabbitServer
) -> None:
    """Regression: when the worker was killed before the settlement, the run counted a crash."""
    project.environ |= {"AGENTPIPE_SLOTS": "2", "AGENTPIPE_LEASE_S": "60"}
    project.collection(number=2)
    direct = project.environ["AGENTPIPE_BROKER"]
    files = [project.folder / name for name in ("one", "two")]
    with Proxy(rabbitmq_server.port, odds=0.0) as proxy:
        url = direct.replace(f":{rabbitmq_server.port}", f":{proxy.port}")
        fleet = project.work("--processes", "1", env={"AGENTPIPE_BROKER": url}).ready(1)
        (worker,) = fleet.pids
        ended, runs = project.send(*[f"wait-for-file {file}" for file in files])
        wait_until(lambda: running(worker) == {ended, runs}, 30, "both run")
        proxy.cut()  # What ends now cannot be settled.
        files[0].touch()
        wait_until(lambda: running(worker) == {runs}, 30, "one has ended")
        os.kill(worker, signal.SIGKILL)
        proxy.refuse()  # Drops what the worker has written.
        proxy.mend()
        proxy.accept()
        files[1].touch()
        project.until(delivered=2)
        assert fleet.stop() == 0
    results = project.by_id()
    assert [results[task_id]["attempt"] for task_id in (ended, runs)] == [1, 2]


def running(worker: int) -> set[str]:
    """The tasks whose runs a worker's supervisor would blame for its death."""
    files = Path(f"/proc/{worker}/fd").iterdir()
    path, *_ = [it for it in files if "last-word" in str(it.readlink())]
    with path.open("rb") as file:
        said = LastWordFile(file.fileno(), str(path)).read()
    return {claim.task_id for claim in said.claims.values() if claim.begun}


def all_read(project: Project, tasks: Iterable[str]) -> bool:
    """Whether workers have read these tasks."""
    with closing(project.open_store()) as store:
        assert isinstance(store, RabbitStore)
        return all(store.locate(task_id).place != "unknown" for task_id in tasks)


def all_delivered(project: Project) -> bool:
    """Whether the server has sent all tasks to workers; they may not have read them yet."""
    with closing(project.open_store()) as store:
        assert isinstance(store, RabbitStore)
        return store._run(_waiting_on_the_server) == 0  # noqa: SLF001 - no operation shows it


async def _waiting_on_the_server(services: Services) -> int:
    sources = [
        it for queue in services.registry.current() for it in services.registry.sources(queue)
    ]
    return sum((await services.queues.depths([it.name for it in sources])).values())

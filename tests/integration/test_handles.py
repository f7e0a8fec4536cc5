"""The handles that `send` returns give results: in threads, in loops, by the thousand."""

from __future__ import annotations

import asyncio
import os
import signal
import sqlite3
import threading
import uuid
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentpipe.config.collection import load
from agentpipe.core.result import Result
from agentpipe.errors import ConfigError, NoResult, ResultTimeout
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from tests.support import refuse_in_sqlite

if TYPE_CHECKING:
    from pathlib import Path

    from brokers.server_kafka import KafkaServer
    from brokers.server_rabbitmq import RabbitServer
    from tests.integration.project import Project

PATIENCE_S = 120.0


def opened(project: Project) -> Dispatcher:
    settings = Settings.from_env(project.environ)
    return Dispatcher.open(load(project.folder / "collection.yaml"), settings)


@pytest.mark.long
def test_two_thousand_handles_are_awaited_at_once_while_a_worker_is_killed(
    project: Project,
) -> None:
    project.collection(number=8, max_queue_size=1_000)
    fleet = project.work("--processes", "2").ready(2)
    before = threading.active_count()

    async def ask(dispatcher: Dispatcher) -> list[Result]:
        handles = [dispatcher.send("toys", {"question": f"echo {n}"}) for n in range(2_000)]
        answers = asyncio.gather(*handles)
        await asyncio.wait_for(handles[0], PATIENCE_S)
        assert threading.active_count() - before <= 3
        os.kill(min(fleet.pids), signal.SIGKILL)
        late = dispatcher.send("toys", "sleep 60")
        waiting = asyncio.ensure_future(late)
        results = await asyncio.wait_for(answers, PATIENCE_S)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        return results

    with opened(project) as dispatcher:
        results = asyncio.run(ask(dispatcher))
    assert [result.result for result in results] == [str(n) for n in range(2_000)]


def test_handles_wait_in_threads_and_in_several_loops(project: Project) -> None:
    project.collection()
    project.work("--processes", "1").ready(1)
    with opened(project) as dispatcher:
        sent = [dispatcher.send("toys", f"echo {n}") for n in range(3)]

        async def wait(number: int) -> Result:
            async with asyncio.timeout(PATIENCE_S):
                return await sent[number]

        assert [asyncio.run(wait(n)).result for n in range(3)] == ["0", "1", "2"]
        assert asyncio.run(wait(0)).result == "0"
        assert sent[1].result(timeout_s=PATIENCE_S).result == "1"


def test_a_timeout_says_where_the_task_is(project: Project) -> None:
    project.collection()
    with opened(project) as dispatcher:
        sent = dispatcher.send("toys", "echo hi")
        with pytest.raises(ResultTimeout, match="waits in the queue of toys_0, which no worker"):
            sent.result(timeout_s=0.01)
        with pytest.raises(TimeoutError, match=f"agentpipe why {sent}"):
            sent.result(timeout_s=0)


def test_the_handle_of_a_known_id_resolves_to_its_stored_result(project: Project) -> None:
    project.collection()
    project.send("echo early")
    project.burst("--processes", "1")
    with opened(project) as dispatcher:
        again = dispatcher.send("toys", {"task_id": "tasks-0", "question": "echo late"})
        assert again.result(timeout_s=PATIENCE_S).result == "early"
        assert dispatcher.handle("tasks-0").result(timeout_s=PATIENCE_S).result == "early"


@pytest.mark.long
def test_an_id_that_the_broker_has_forgotten_does_not_resolve_to_its_old_result(
    project: Project,
) -> None:
    project.collection()
    project.send("echo early")
    project.burst("--processes", "1")
    for file in (project.folder / "store").iterdir():
        file.unlink()
    with opened(project) as dispatcher:
        sent = dispatcher.send("toys", {"task_id": "tasks-0", "question": "echo late"})
        with pytest.raises(ResultTimeout):
            sent.result(timeout_s=0.5)
        project.burst("--processes", "1")
        assert sent.result(timeout_s=PATIENCE_S).result == "late"


def refusing(project: Project) -> Path:
    """The project's sink, which refuses all records."""
    open_sink(Settings.from_env(project.environ)).close()
    file = next(project.folder.rglob("results.db"))
    refuse_in_sqlite(file, "records", "1")
    return file


@pytest.mark.long
def test_a_result_that_the_sink_refuses_is_said_and_comes_once_it_is_delivered(
    project: Project,
) -> None:
    project.collection()
    file = refusing(project)
    with opened(project) as dispatcher:
        sent = dispatcher.send("toys", {"task_id": "odd", "question": "echo hi"})
        project.burst("--processes", "1")
        with pytest.raises(NoResult, match="dead show --undeliverable odd") as refused:
            sent.result(timeout_s=PATIENCE_S)
        assert refused.value.kept is not None
        assert Result.decode(refused.value.kept).result == "hi"
        with closing(sqlite3.connect(file, timeout=30)) as db:
            db.execute("DROP TRIGGER picky_records")
            db.commit()
        project.ok("dead", "replay", "--undeliverable", "--all", "--yes")
        project.burst("--processes", "1")
        assert dispatcher.handle("odd").result(timeout_s=PATIENCE_S).result == "hi"


def test_send_and_wait_does_not_wait_for_a_result_that_the_sink_refuses(project: Project) -> None:
    project.collection()
    refusing(project)
    project.work("--processes", "1").ready(1)
    done = project.run("send", "toys", "echo hi", "--wait")
    assert done.code == 1, done
    assert "the sink refuses the result of task" in done.err
    assert "no result yet" not in done.err


def test_closing_the_dispatcher_ends_what_waits(project: Project) -> None:
    project.collection()
    dispatcher = opened(project)
    sent = dispatcher.send("toys", "echo hi")
    caught: list[BaseException] = []
    begun = threading.Event()

    def wait() -> None:
        begun.set()
        try:
            sent.result(timeout_s=PATIENCE_S)
        except NoResult as error:
            caught.append(error)

    waiting = threading.Thread(target=wait)
    waiting.start()
    begun.wait(PATIENCE_S)
    dispatcher.close()
    waiting.join(PATIENCE_S)
    assert "closed" in str(caught[0])
    with pytest.raises(NoResult, match="closed"):
        sent.result()
    assert not [each for each in threading.enumerate() if each.name.startswith("results_")]


def test_a_dispatcher_without_results_says_so(project: Project) -> None:
    project.collection()
    settings = Settings.from_env(project.environ)
    collections = load(project.folder / "collection.yaml")
    with Dispatcher.open(collections, settings, results=False) as dispatcher:
        sent = dispatcher.send("toys", "echo hi")
        assert isinstance(sent, str)
        with pytest.raises(ConfigError, match="reads no results"):
            sent.result()


def on_kafka(project: Project, server: KafkaServer) -> None:
    project.environ["AGENTPIPE_SINK"] = f"{server.url}/test-{uuid.uuid4().hex[:8]}?partitions=2"


@pytest.mark.long
@pytest.mark.server
def test_results_on_kafka_come_through_one_reader_and_known_ones_from_the_beginning(
    project: Project, kafka_server: KafkaServer
) -> None:
    on_kafka(project, kafka_server)
    project.collection()
    with opened(project) as dispatcher:
        sent = [
            dispatcher.send("toys", {"task_id": f"k{n}", "question": f"echo {n}"}) for n in (0, 1)
        ]
        project.burst("--processes", "1")
        answers = [each.result(timeout_s=PATIENCE_S).result for each in sent]
        assert answers == ["0", "1"]
    with opened(project) as dispatcher:
        again = dispatcher.send("toys", {"task_id": "k1", "question": "echo late"})
        assert again.result(timeout_s=PATIENCE_S).result == "1"


@pytest.mark.long
@pytest.mark.server
@pytest.mark.parametrize("stream", ["", "&stream=yes"])
def test_results_on_rabbitmq_come_through_one_reader(
    project: Project, rabbitmq_server: RabbitServer, stream: str
) -> None:
    topic = f"test-{uuid.uuid4().hex[:8]}"
    project.environ["AGENTPIPE_SINK"] = f"{rabbitmq_server.url}?topic={topic}{stream}"
    project.collection()
    with opened(project) as dispatcher:
        sent = [
            dispatcher.send("toys", {"task_id": f"r{n}", "question": f"echo {n}"}) for n in (0, 1)
        ]
        project.burst("--processes", "1")
        assert [each.result(timeout_s=PATIENCE_S).result for each in sent] == ["0", "1"]
    with opened(project) as dispatcher:
        again = dispatcher.send("toys", {"task_id": "r1", "question": "echo late"})
        if stream:
            assert again.result(timeout_s=PATIENCE_S).result == "1"
        else:
            with pytest.raises(ResultTimeout, match="it is settled"):
                again.result(timeout_s=0.5)

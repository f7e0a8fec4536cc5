"""A trainer's policy with real workers: versions, servers and pauses."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.config.collection import load
from agentpipe.errors import ConfigError
from agentpipe.sending.dispatcher import Dispatcher
from agentpipe.settings import Settings
from agentpipe.training.policy import Policy
from tests.llm_stub import LlmStub, Reply, TokenIds
from tests.support import slowness, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Fleet, Project
    from tests.llm_stub import Request

ON_BOTH = pytest.mark.every_broker(but=("rabbitmq",), long=("redis",))

TURNS, RUNS = 3, 64
LIMIT_S = 5.0 * slowness()
PATIENCE_S = 60.0
TALKER = """
import httpx2

class Talker:
    def __init__(self, turns=3, timeout_s=600.0):
        self.turns, self.timeout_s = turns, timeout_s

    async def execute(self, task, context):
        env, messages = context.env, [{"role": "user", "content": task.question}]
        headers = {"Authorization": "Bearer " + env["OPENAI_API_KEY"]}
        async with httpx2.AsyncClient(timeout=self.timeout_s, headers=headers) as client:
            for _ in range(self.turns):
                while True:
                    given = {"model": "mine", "messages": messages}
                    url = env["OPENAI_BASE_URL"] + "/chat/completions"
                    response = await client.post(url, json=given)
                    if response.status_code != 429:
                        break
                    import asyncio
                    await asyncio.sleep(float(response.headers["retry-after"]))
                response.raise_for_status()
                messages.append(response.json()["choices"][0]["message"])
                messages.append({"role": "user", "content": "go on"})
        return "done"
"""


def pass_the_limit() -> None:
    """Wait until the time limit of a run has passed."""
    over = time.monotonic() + LIMIT_S + 1
    wait_until(lambda: time.monotonic() > over, PATIENCE_S, "the time limit has passed")


def number_of_turn(request: Request) -> int:
    return len(request.body["messages"]) // 2


def talk(request: Request) -> Reply:
    """Answer with one more token in each turn."""
    turn = number_of_turn(request)
    ids = TokenIds(list(range(1, 2 * turn + 2)), [2 * turn + 2])
    return Reply({"role": "assistant", "content": f"turn {turn}"}, ids=ids)


class Crew:
    """A collection that follows a policy, with servers and a trainer."""

    def __init__(self, project: Project, urls: list[str], **policy: Any) -> None:
        self.project = project
        spec = {"name": "main", "model": "local:Qwen", "endpoints": urls, **policy}
        document = {"kind": "policy", "spec": spec}
        with (project.folder / "collection.yaml").open("a") as stream:
            yaml.safe_dump(document, stream, explicit_start=True)
        project.environ["AGENTPIPE_SLOTS"] = "32"
        project.environ["LOCAL_LLM_API_KEY"] = "sk-of-policy-0123456789"
        self.settings = Settings(broker=project.environ["AGENTPIPE_BROKER"])

    def talkers(self, turns: int = TURNS, **spec: Any) -> None:
        self.project.write("talkers.py", TALKER)
        config = {"class": "talkers:Talker", "turns": turns}
        agent = {"kind": "agent", "spec": {"name": "t", "type": "python", "config": config}}
        self.project.write("talker.yaml", yaml.safe_dump(agent))
        more = {"concurrency": RUNS, "time_limit": LIMIT_S, "max_retries": 0, **spec}
        self.project.collection(config="./talker.yaml", policy="main", **more)

    def models(self, **spec: Any) -> None:
        config = {"model": "openai:not-asked-for"}
        agent = {"kind": "agent", "spec": {"name": "m", "type": "llm", "config": config}}
        self.project.write("model.yaml", yaml.safe_dump(agent))
        more = {"concurrency": RUNS, "time_limit": LIMIT_S, "max_retries": 0, **spec}
        self.project.collection("models", config="./model.yaml", policy="main", **more)

    @contextlib.contextmanager
    def working(self, workers: int = 2) -> Iterator[Fleet]:
        fleet = self.project.work("--processes", str(workers)).ready(workers)
        yield fleet
        fleet.stop()

    def policy(self) -> Policy:
        return Policy.open("main", self.settings)

    def ended(self, number: int) -> dict[str, dict[str, Any]]:
        self.project.until(delivered=number)
        return self.project.by_id()


def versions_in(result: dict[str, Any]) -> list[int]:
    """The version of each sampled turn."""
    return [
        version
        for segment in result["rollout"]["segments"]
        for turn in segment["turns"]
        for version, _, _ in turn["versions"]
    ]


@pytest.mark.long
@ON_BOTH
def test_a_pause_with_64_runs_in_flight_fails_none(project: Project) -> None:
    """The pause is longer than the time limit; each turn is requested once."""
    second_turns = threading.Event()

    def reply(request: Request) -> Reply:
        after = second_turns if number_of_turn(request) == 0 else None
        given = talk(request)
        return Reply(given.message, ids=given.ids, after=after)

    with LlmStub(reply) as stub:
        crew = Crew(project, [stub.url])
        crew.talkers()
        ids = project.send(*(f"question {n}" for n in range(RUNS)))
        with crew.working(), crew.policy() as policy:
            stub.wait_for(RUNS)
            with policy.update(1) as left:
                assert left == RUNS
                second_turns.set()
                wait_until(lambda: policy.pause() == 0, PATIENCE_S, "all are held")
                pass_the_limit()
                assert len(stub.requests) == RUNS
            results = crew.ended(RUNS)
    assert Counter(each["outcome"] for each in results.values()) == {"ok": RUNS}
    assert all(versions_in(results[each]) == [0, 1, 1] for each in ids)
    assert len(stub.requests) == RUNS * TURNS
    assert {it.body["model"] for it in stub.requests} == {"Qwen"}
    assert {it.authorization for it in stub.requests} == {"Bearer sk-of-policy-0123456789"}


@pytest.mark.long
@ON_BOTH
def test_runs_of_models_wait_as_well(project: Project) -> None:
    with LlmStub(talk) as stub:
        crew = Crew(project, [stub.url])
        crew.models()
        ids = project.send(*(f"question {n}" for n in range(8)), to="models")
        with crew.policy() as policy:
            policy.pause()
            with crew.working(1):
                project.until(running=8)
                pass_the_limit()
                assert not stub.requests
                policy.publish(5)
                policy.resume()
                results = crew.ended(8)
    assert all(results[each]["outcome"] == "ok" for each in ids)
    assert all(versions_in(results[each]) == [5] for each in ids)
    assert {it.authorization for it in stub.requests} == {"Bearer sk-of-policy-0123456789"}


@pytest.mark.long
@ON_BOTH
def test_a_program_is_asked_to_come_again_and_its_run_does_not_end(project: Project) -> None:
    with LlmStub(talk) as stub:
        crew = Crew(project, [stub.url], hold_s=0.3)
        crew.talkers(1)
        (task_id,) = project.send("one")
        with crew.policy() as policy:
            policy.pause()
            with crew.working(1):
                project.until(running=1)
                pass_the_limit()
                policy.resume()
                results = crew.ended(1)
    assert results[task_id]["outcome"] == "ok"
    assert len(stub.requests) == 1


@pytest.mark.long
@ON_BOTH
def test_servers_move_while_runs_go_on(project: Project) -> None:
    """A run stays with its server; after a publication new runs use the new servers."""
    gate = threading.Event()

    def reply(request: Request) -> Reply:
        given = talk(request)
        after = gate if number_of_turn(request) == 1 else None
        return Reply(given.message, ids=given.ids, after=after)

    with LlmStub(reply) as one, LlmStub(reply) as two, LlmStub(reply) as three:
        stubs = (one, two, three)
        crew = Crew(project, [one.url, two.url])
        crew.talkers(4, time_limit=60)
        project.send(*(f"question {n}" for n in range(16)))
        with crew.working(), crew.policy() as policy:
            wait_until(
                lambda: sum(len(it.requests) for it in stubs) == 32, PATIENCE_S, "second turns"
            )
            policy.pause()
            policy.publish(1, endpoints=[two.url, three.url])
            policy.resume()
            gate.set()
            results = crew.ended(16)
    assert Counter(each["outcome"] for each in results.values()) == {"ok": 16}
    assert {number_of_turn(it) for it in one.requests} == {0, 1}
    late = [(it, n) for n in (1, 2) for it in stubs[n].requests if number_of_turn(it) > 1]
    assert len(late) == 32
    after = {it.question: n for it, n in late}
    assert all((it.question, n) in after.items() for it, n in late)
    assert all(versions_in(each) == [0, 0, 1, 1] for each in results.values())


@pytest.mark.long
@ON_BOTH
def test_killed_workers_while_paused_lose_and_repeat_nothing(project: Project) -> None:
    with LlmStub(talk) as stub:
        crew = Crew(project, [stub.url])
        crew.talkers(1, max_crashes=50)
        ids = project.send(*(f"question {n}" for n in range(16)))
        with crew.policy() as policy:
            policy.pause()
            with crew.working() as fleet:
                for _ in range(3):
                    project.until(running=16)
                    for pid in fleet.pids:
                        with contextlib.suppress(ProcessLookupError):
                            os.kill(pid, signal.SIGKILL)
                assert not stub.requests
                assert policy.pause() == 0
                policy.publish(2)
                policy.resume()
                results = crew.ended(16)
    assert all(results[each]["outcome"] == "ok" for each in ids)
    assert all(versions_in(results[each]) == [2] for each in ids)
    assert len(stub.requests) == 16


@pytest.mark.long
@ON_BOTH
def test_only_what_a_version_allows_begins_and_why_says_so(project: Project) -> None:
    """Two of six groups can start; the burst ends, and continues after the next version."""
    with LlmStub(talk) as stub:
        crew = Crew(project, [stub.url], batch=2, max_staleness=0)
        crew.talkers(1, number=2, time_limit=60)
        judged = {"evaluators": [{"func": "raw", "op": "=", "value": "done"}]}
        groups = [{"task_id": f"g{n}", "question": f"question {n}", **judged} for n in range(6)]
        settings = crew.settings
        collections = load(project.folder / "collection.yaml")
        with Dispatcher.open(collections, settings, results=False) as dispatcher:
            assert dispatcher.send_groups("toys", groups, 3).accepted == 18
        for version, done in enumerate((2, 4, 6)):
            burst = project.run("work", "--burst", "--processes", "1")
            assert len(stub.requests) == 3 * done
            assert burst.code == (0 if done == 6 else 1), burst
            if done == 6:
                break
            assert f"until it has a version after {version}" in burst.err
            (why,) = project.ok("why", "g5/0", "--json").lines
            assert why["reason"] == "policy_ahead"
            said = f"(0 + {version} + 1) * 2 = {done} groups to begin: {done} are accepted, 0 are"
            assert said in why["sentence"]
            status = project.ok("status", "--json").json["policies"][0]
            assert (status["room"], status["accepted"], status["running"]) == (0, done, 0)
            project.ok("policy", "publish", "main", "--version", str(version + 1))
    results = project.by_id()
    assert {name: versions_in(it) for name, it in results.items()} == {
        f"g{n}/{index}": [n // 2] for n in range(6) for index in range(3)
    }


def test_an_update_that_fails_stays_paused(project: Project) -> None:
    crew = Crew(project, ["http://127.0.0.1:1/v1"])
    crew.talkers()
    project.send("one")
    with crew.policy() as policy:
        with pytest.raises(OSError, match="no weights") as caught, policy.update(4):
            raise OSError("no weights")
        assert "stays paused" in caught.value.__notes__[0]
        assert policy.version == 0
        shown = project.ok("policy", "show", "main", "--json").json
        assert (shown["version"], shown["paused"]) == (0, True)
        policy.publish(4)
        with pytest.raises(ConfigError, match="has version 4, and 3 is lower"), policy.update(3):
            pytest.fail("it began")


@pytest.mark.long
def test_hostile_words_change_nothing(project: Project) -> None:
    crew = Crew(project, ["http://127.0.0.1:1/v1"])
    crew.talkers()
    refused = {
        ("show", "mian"): "did you mean 'main'?",
        ("publish", "main", "--version", "-1"): "an integer from 0",
        ("publish", "main", "--version", "9" * 30): "an integer from 0",
        ("publish", "main", "--version", "x"): "--version: expected an integer, got 'x'",
        ("publish", "main", "--version", "0"): "lower",
        ("pause", "main", "--drain-s", "nan"): "seconds from 0",
    }
    urls = ("http://u:hunter2@h/v1", "ftp://hunter2/", "http://h/?key=hunter2", "hunter2")
    project.ok("policy", "publish", "main", "--version", "1", "-c", "collection.yaml")
    for args, said in refused.items():
        done = project.run("policy", *args)
        assert (done.code, said in done.err) == (2, True), (args, done)
    for url in urls:
        done = project.run("policy", "publish", "main", "--version", "2", "--endpoint", url)
        assert done.code == 2
        assert "hunter2" not in done.err
    shown = project.ok("policy", "show", "main", "--json").json
    assert (shown["version"], shown["endpoints"]) == (1, ["http://127.0.0.1:1/v1"])


@pytest.mark.parametrize("broker_url", ["rabbitmq"], indirect=True)
def test_rabbitmq_refuses_a_policy_by_name(project: Project) -> None:
    crew = Crew(project, ["http://127.0.0.1:1/v1"])
    crew.talkers()
    done = project.run("send", "toys", "question")
    assert done.code == 2
    assert "this broker cannot keep policies: remove the key `policy`" in done.err
    assert project.run("policy", "show", "main").code == 2

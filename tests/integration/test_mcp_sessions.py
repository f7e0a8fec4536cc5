"""Which runs share an MCP session, and when its server starts and ends."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
import threading
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.context import Context
from agentpipe.core.task import Task
from agentpipe.core.trace import Tracer
from agentpipe.engines.instance import Instance
from agentpipe.engines.mcp import server_pool
from agentpipe.engines.mcp.server_pool import SPARES
from agentpipe.engines.mcp.start_gate import CORES
from agentpipe.errors import AgentpipeError, ConfigError, TimeLimitExceeded
from tests.integration.llm_bench import KEY, MARK, ODD, PATIENCE_S
from tests.llm_stub import LlmStub, Reply, call, hang, say
from tests.mcp_http import McpStub
from tests.support import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.integration.llm_bench import Bench
    from tests.integration.project import Project
    from tests.llm_stub import Request


def tool_texts(request: Request) -> list[str]:
    return [m["content"] for m in request.body["messages"] if m["role"] == "tool"]


def tells_pid(request: Request) -> Reply:
    """A model script that answers with the pid of the run's server."""
    texts = tool_texts(request)
    return say(texts[0]) if texts else call("odd__pid")


def servers() -> set[int]:
    return processes_with(MARK)


async def answer(instance: Instance, question: str = "?", limit_s: float = PATIENCE_S) -> Any:
    with Tracer().root():
        return (await instance.answer(Task(question=question), limit_s)).value


def instances(engine: Any, number: int, **env: str) -> list[Instance]:
    context = Context({"OPENAI_API_KEY": KEY, **env})
    return [Instance("it", engine, context, in_thread=False) for _ in range(number)]


async def close(agents: Sequence[Instance]) -> None:
    await asyncio.gather(*(agent.close() for agent in agents))


async def until(predicate: Any, what: str) -> None:
    """Run ``wait_until`` in a thread, so the event loop continues."""
    await asyncio.to_thread(wait_until, predicate, PATIENCE_S, what)


def all_at_once(engine: Any, number: int) -> list[Any]:
    async def run() -> list[Any]:
        agents = instances(engine, number)
        answers = await asyncio.gather(*map(answer, agents))
        await close(agents)
        return answers

    return asyncio.run(run())


class Meeting:
    """A model script that holds back each run's last answer until all runs are waiting for it."""

    def __init__(self, number: int) -> None:
        self._missing, self._all = number, threading.Event()
        self.seen: set[int] = set()

    def __call__(self, request: Request) -> Reply:
        texts = tool_texts(request)
        if not texts:
            return call("odd__pid")
        self._missing -= 1
        if not self._missing:
            self.seen = servers()
            self._all.set()
        return replace(say(texts[0]), after=self._all)


# The default: a fresh server for each run.


@pytest.mark.parametrize(
    ("config", "number"),
    [
        ({}, 3),
        ({"sessions": "task"}, 3),
        ({"sessions": "agent"}, 1),
        ({"sessions": "context"}, 1),
        ({"keep_sessions": True}, 1),
        ({"keep_sessions": False}, 3),
    ],
)
def test_sessions_serve_a_run_unless_the_config_says_otherwise(
    bench: Bench, config: dict[str, Any], number: int
) -> None:
    with LlmStub(tells_pid) as model:
        engine = bench.engine(model.url, servers=[bench.odd()], **config)
        assert len(set(bench.ask(engine, "?", "?", "?"))) == number
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


def test_the_next_run_gets_a_server_that_was_started_ahead(bench: Bench) -> None:
    async def run(engine: Any) -> None:
        agents = instances(engine, 1)
        first = await answer(agents[0])
        await until(lambda: servers() - {int(first)}, "the next server has started")
        ahead = servers()
        assert int(await answer(agents[0])) in ahead - {int(first)}
        await close(agents)

    with LlmStub(tells_pid) as model:
        asyncio.run(run(bench.engine(model.url, servers=[bench.odd()])))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


@pytest.mark.long
def test_nothing_starts_before_the_first_run(bench: Bench) -> None:
    async def run(engine: Any) -> None:
        agents = instances(engine, 3)
        assert await answer(agents[0]) == "no tool was needed"
        await close(agents)

    engine = bench.engine("http://127.0.0.1:9/v1", servers=[bench.odd()])
    engine.build()
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")
    with LlmStub([say("no tool was needed")]) as model:
        asyncio.run(run(bench.engine(model.url)))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


def test_there_are_no_more_servers_than_runs_and_the_pool(bench: Bench) -> None:
    model_of = Meeting(number := 6)
    with LlmStub(model_of) as model:
        engine = bench.engine(model.url, servers=[bench.odd()])
        answers = all_at_once(engine, number)
    assert len(set(answers)) == number
    assert set(map(int, answers)) <= model_of.seen
    assert len(model_of.seen) <= number + SPARES
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


def test_a_server_that_died_in_the_pool_costs_no_run(bench: Bench) -> None:
    async def run(engine: Any) -> None:
        agents = instances(engine, 1)
        first = await answer(agents[0])
        await until(lambda: servers() - {int(first)}, "the next server has started")
        for pid in servers():
            os.kill(pid, signal.SIGKILL)
        second = await answer(agents[0])
        assert second != first
        await close(agents)

    with LlmStub(tells_pid) as model:
        asyncio.run(run(bench.engine(model.url, servers=[bench.odd()])))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


def test_a_server_with_one_contexts_credentials_never_serves_another(bench: Bench) -> None:
    def tells_token(request: Request) -> Reply:
        texts = tool_texts(request)
        return say(texts[0]) if texts else call("odd__environ", text="TOKEN")

    async def run(engine: Any) -> list[str]:
        (one,), (two,) = instances(engine, 1, TOKEN="one"), instances(engine, 1, TOKEN="two")
        answers = []
        for agent in (one, two, one, two):
            answers.append(await answer(agent))
            await until(servers, "a server is ahead")
        await close([one, two])
        return answers

    with LlmStub(tells_token) as model:
        for sessions in ("task", "agent", "context"):
            engine = bench.engine(model.url, servers=[bench.odd()], sessions=sessions)
            assert asyncio.run(run(engine)) == ["one", "two", "one", "two"]


def test_each_run_has_its_own_http_session_and_closes_it(bench: Bench) -> None:
    with McpStub() as stub, LlmStub([say("a")]) as model:
        engine = bench.engine(model.url, servers=[{"name": "web", "url": stub.url}])
        bench.ask(engine, "?", "?", "?")
        assert len(set(stub.sessions)) == 3
        assert stub.deleted == stub.sessions


def test_servers_and_the_memory_of_children_are_counted(bench: Bench) -> None:
    from agentpipe.engines.mcp.running import running_servers
    from agentpipe.worker.watch.child_memory import ChildMemory

    counted: list[tuple[int, int]] = []

    def script(request: Request) -> Reply:
        if tool_texts(request):
            counted.append((running_servers(), ChildMemory().bytes()))
        return tells_pid(request)

    before = running_servers()
    with LlmStub(script) as model:
        bench.ask(bench.engine(model.url, servers=[bench.odd()], sessions="agent"), "?")
    ((number, size),) = counted
    assert number == before + 1
    assert size > 2**20
    wait_until(lambda: running_servers() == before, PATIENCE_S, "its end is heard of")


# Servers for one run.


def test_servers_of_a_run_start_together_but_no_more_than_there_are_cores(bench: Bench) -> None:
    async def run(engine: Any) -> None:
        agents = instances(engine, 1)
        running = asyncio.create_task(answer(agents[0]))
        await until(lambda: len(servers()) == CORES, "as many servers as cores have started")
        running.cancel()
        await asyncio.wait({running})
        await close(agents)

    many = [bench.odd("hang") | {"name": f"odd{index}"} for index in range(CORES + 2)]
    with LlmStub([say("a")]) as model:
        asyncio.run(run(bench.engine(model.url, servers=many)))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


def test_if_one_server_cannot_start_the_others_end(bench: Bench) -> None:
    both = [bench.odd(), bench.odd("die") | {"name": "dead"}]
    with LlmStub([say("a")]) as model:
        (end,) = bench.ask(bench.engine(model.url, servers=both), "?")
    assert "MCP server 'dead' cannot be used" in str(end)
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


@pytest.mark.parametrize("sessions", ["task", "agent", "context"])
@pytest.mark.parametrize("stage", ["starting", "running"])
def test_a_run_that_is_cancelled_or_late_leaves_no_server(
    bench: Bench, sessions: str, stage: str
) -> None:
    async def run(engine: Any) -> None:
        late, cancelled = agents = instances(engine, 2)
        running = asyncio.create_task(answer(cancelled))
        await until(servers, "a server has started")
        with pytest.raises(TimeLimitExceeded):
            await answer(late, limit_s=0.3)
        running.cancel()
        await asyncio.wait({running})
        await close(agents)

    habits = ["hang"] if stage == "starting" else []
    with LlmStub([hang()]) as model:
        engine = bench.engine(model.url, servers=[bench.odd(*habits)], sessions=sessions)
        asyncio.run(run(engine))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


# One server for all agents of a context.


def test_agents_of_a_context_share_one_server_at_once(bench: Bench) -> None:
    model_of = Meeting(number := 12)
    with LlmStub(model_of) as model:
        engine = bench.engine(model.url, servers=[bench.odd()], sessions="context")
        answers = all_at_once(engine, number)
    assert len(set(answers)) == 1
    assert {*map(int, answers)} == model_of.seen
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


def test_the_mark_of_a_list_decides_unless_the_config_does(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"stdio": {"command": sys.executable, "args": [ODD, MARK]}, "stateless": True}
    common = {"command": sys.executable, "args": [ODD, MARK], "stateless": True}
    for listed in ({"odd": entry}, {"mcpServers": {"odd": common}}):
        (tmp_path / "servers.json").write_text(json.dumps(listed))
        monkeypatch.setenv("AGENTPIPE_MCP_SERVERS", str(tmp_path / "servers.json"))
        with LlmStub(tells_pid) as model:
            shared = bench.engine(model.url, servers=[{"name": "odd"}])
            assert len({*bench.ask(shared, "?", "?")}) == 1
            fresh = bench.engine(model.url, servers=[{"name": "odd"}], sessions="task")
            assert len({*bench.ask(fresh, "?", "?")}) == 2


def test_servers_of_our_list_that_keep_nothing_are_marked() -> None:
    from agentpipe.config.mcp_servers import load_catalogue

    catalogue = load_catalogue(None)
    marked = [
        name for name in ("time", "fetch", "calculator", "git", "memory") if _mark(catalogue, name)
    ]
    assert marked == ["time", "fetch", "calculator"]


def _mark(catalogue: Any, name: str) -> bool:
    stateless: bool = catalogue.server({"name": name}, {}).stateless
    return stateless


def test_the_end_of_one_run_does_not_close_a_shared_session_for_the_others(bench: Bench) -> None:
    go_on = threading.Event()

    def script(request: Request) -> Reply:
        if "fail" in request.question:
            return Reply(status=400)
        if "hang" in request.question:
            return hang()
        texts = tool_texts(request)
        if len(texts) == 2:
            return say(" ".join(texts))
        return replace(call("odd__pid"), after=go_on) if texts else call("odd__pid")

    async def run(engine: Any, model: LlmStub) -> None:
        stays, fails, cancelled, late = agents = instances(engine, 4)
        staying = asyncio.create_task(answer(stays))
        await until(lambda: len(model.requests) == 2, "it has called the tool once")
        with pytest.raises(AgentpipeError):
            await answer(fails, "fail")
        ending = asyncio.create_task(answer(cancelled, "hang"))
        await until(lambda: len(model.requests) == 4, "the next run asks")
        ending.cancel()
        await asyncio.wait({ending})
        with pytest.raises(TimeLimitExceeded):
            await answer(late, "hang", limit_s=0.2)
        await close([fails, cancelled, late])
        go_on.set()
        before, after = (await staying).split()
        assert before == after
        await close(agents)

    with LlmStub(script) as model:
        asyncio.run(run(bench.engine(model.url, servers=[bench.odd()], sessions="context"), model))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


@pytest.mark.parametrize("tool", ["crash", "freeze"])
def test_a_shared_session_that_is_lost_or_hangs_is_opened_again(bench: Bench, tool: str) -> None:
    go_on = threading.Event()

    def script(request: Request) -> Reply:
        if tool in request.question:
            return call(f"odd__{tool}")
        texts = tool_texts(request)
        if len(texts) == 2:
            return say(" ".join(texts))
        return replace(call("odd__pid"), after=go_on) if texts else call("odd__pid")

    async def run(engine: Any, model: LlmStub) -> None:
        stays, breaks = agents = instances(engine, 2)
        staying = asyncio.create_task(answer(stays))
        await until(lambda: len(model.requests) == 2, "it has called the tool once")
        with pytest.raises(AgentpipeError, match="odd"):
            await answer(breaks, tool)
        go_on.set()
        before, after = (await staying).split()
        assert before != after
        await until(lambda: servers() == {int(after)}, "the old server has ended")
        await close(agents)

    with LlmStub(script) as model:
        config = {"sessions": "context", "tool_limit_s": 1}
        asyncio.run(run(bench.engine(model.url, servers=[bench.odd()], **config), model))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


# Idle servers end.


@pytest.mark.parametrize("sessions", ["task", "agent", "context"])
def test_idle_servers_end_and_the_next_run_gets_another(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, sessions: str
) -> None:
    monkeypatch.setattr(server_pool, "IDLE_S", 0.05)

    async def run(engine: Any) -> None:
        agents = instances(engine, 1)
        first = await answer(agents[0])
        await until(lambda: not servers(), "idle servers have ended")
        assert await answer(agents[0]) != first
        await close(agents)

    with LlmStub(tells_pid) as model:
        asyncio.run(run(bench.engine(model.url, servers=[bench.odd()], sessions=sessions)))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


def test_a_kept_server_does_not_become_idle_during_a_run(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(server_pool, "IDLE_S", 0.05)

    def script(request: Request) -> Reply:
        texts = tool_texts(request)
        slowly = replace(call("odd__pid"), delay_s=0.2)
        return say(" ".join(texts)) if len(texts) == 2 else slowly

    with LlmStub(script) as model:
        engine = bench.engine(model.url, servers=[bench.odd()], sessions="agent")
        (pids,) = bench.ask(engine, "?")
    before, after = pids.split()
    assert before == after


def test_servers_end_with_agents_in_threads(bench: Bench) -> None:
    async def run(engine: Any) -> None:
        context = Context({"OPENAI_API_KEY": KEY})
        agents = [Instance("it", engine, context, in_thread=True) for _ in range(2)]
        assert len({*await asyncio.gather(*map(answer, agents))}) == 2
        await close(agents)

    with LlmStub(tells_pid) as model:
        asyncio.run(run(bench.engine(model.url, servers=[bench.odd()], sessions="context")))
    wait_until(lambda: not servers(), PATIENCE_S, "all have ended")


# In a worker.


@pytest.mark.long
@pytest.mark.parametrize("kind", [signal.SIGTERM, signal.SIGKILL])
def test_the_servers_of_a_worker_are_counted_and_end_with_it(
    project: Project, bench: Bench, kind: signal.Signals
) -> None:
    def script(request: Request) -> Reply:
        return hang() if tool_texts(request) else call("odd__pid")

    with LlmStub(script) as model:
        config = {"model": "openai:m", "base_url": model.url, "servers": [bench.odd()]}
        spec = {"name": "it", "type": "llm", "config": config}
        project.write("agent.yaml", json.dumps({"kind": "agent", "spec": spec}))
        project.collection(number=2)
        project.environ |= {"AGENTPIPE_GRACE_S": "0"}
        project.send("one", "two")
        fleet = project.work("--processes", "1").ready(1)

        def counted() -> Any:
            (worker,) = project.stats()["workers"] or [{}]
            # Two are in use, and one is started ahead.
            told = worker.get("servers", 0) > 2 and worker["children_bytes"]
            return worker if told else None

        worker = wait_until(counted, PATIENCE_S, "the worker has told of its servers")
        assert worker["servers"] <= 2 + SPARES
        assert worker["servers"] == len(servers())
        assert worker["children_bytes"] > 2**20
        assert "MCP servers" in project.ok("status").out
        of_worker = servers()
        os.kill(worker["pid"], kind)
        wait_until(lambda: not of_worker & servers(), PATIENCE_S, "its servers have ended")
        fleet.stop()
    wait_until(lambda: not servers(), PATIENCE_S, "those of its successor have ended, too")


# Invalid configs.


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"sessions": "run"}, "sessions: expected task, agent or context"),
        ({"sessions": "task", "keep_sessions": True}, "keep_sessions: remove it"),
        ({"servers": [{"name": "time", "stateless": "yes"}]}, "stateless must be true or false"),
    ],
)
def test_a_mistake_about_sessions_is_told(
    bench: Bench, config: dict[str, Any], message: str
) -> None:
    with pytest.raises(ConfigError, match=message):
        bench.engine("http://127.0.0.1:9/v1", **config)

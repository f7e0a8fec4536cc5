"""Models with MCP tools as agents, with a loopback model and real MCP servers."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.core.failures import is_infra, is_permanent
from agentpipe.core.task import Task
from agentpipe.core.transcript import transcripts
from agentpipe.errors import AgentpipeError
from tests.integration.llm_bench import KEY, MARK, ODD, PATIENCE_S
from tests.llm_stub import LlmStub, Reply, call, cut, fail, hang, say
from tests.support import processes_with, wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.integration.llm_bench import Bench
    from tests.integration.project import Project
    from tests.llm_stub import Request

FILES = Path("/proc/self/fd")


@pytest.mark.long
def test_it_asks_calls_tools_and_answers(bench: Bench) -> None:
    script = [call("time__convert_time", **BERLIN), say("eleven o'clock")]
    with LlmStub(script) as stub:
        config = {"servers": [{"name": "time"}], "instruction": "Be brief.", "temperature": 0.5}
        (answer,) = bench.ask(bench.engine(stub.url, **config), "What time is it in London?")
    assert answer == "eleven o'clock"
    first, second = stub.requests
    assert first.authorization == f"Bearer {KEY}"
    assert first.body["temperature"] == 0.5
    assert [m["role"] for m in first.body["messages"]] == ["system", "user"]
    names = {tool["function"]["name"] for tool in first.body["tools"]}
    assert names == {"time__get_current_time", "time__convert_time"}
    assert "11:00:00" in second.text
    usage = bench.tracer.usage.to_dict()
    assert usage.pop("usd") > 0
    assert usage == {"requests": 2, "input_tokens": 20, "output_tokens": 10, "cached_tokens": 8}
    (tool,) = bench.records("tool")
    assert (tool["server"], tool["tool_name"], tool["error"]) == ("time", "convert_time", "")
    assert tool["arguments"] == BERLIN
    assert "11:00:00" in tool["response"]
    asked, told = bench.records("llm")
    assert asked["messages"][0] == {"role": "system", "content": "Be brief."}
    assert told["messages"][-1]["role"] == "tool"
    assert told["response"] == "eleven o'clock"
    assert {tool["name"] for tool in asked["tools"]} == names
    assert "tools" not in told
    (whole,) = transcripts(bench.tracer.spans)
    roles = [message["role"] for message in whole.messages]
    assert roles == ["system", "user", "assistant", "tool", "assistant"]
    assert list(whole.messages[:4]) == second.body["messages"]
    assert KEY not in json.dumps(bench.tracer.spans)


BERLIN = {"source_timezone": "Europe/Berlin", "time": "12:00", "target_timezone": "Europe/London"}


def test_a_tasks_seed_and_sampling_come_before_the_agents(bench: Bench) -> None:
    with LlmStub([say("a")]) as stub:
        engine = bench.engine(stub.url, seed=1, temperature=0.1, max_tokens=50)
        task = Task(question="?", seed=7, sampling={"temperature": 0.9, "top_p": 0.5})
        assert bench.ask(engine, "?", task) == ["a", "a"]
    plain, own = (request.body for request in stub.requests)
    assert (plain["seed"], plain["temperature"]) == (1, 0.1)
    assert (own["seed"], own["temperature"], own["top_p"]) == (7, 0.9, 0.5)
    assert own["max_completion_tokens"] == 50


def test_sampling_that_nobody_knows_is_refused(bench: Bench) -> None:
    with LlmStub([say("a")]) as stub:
        (end,) = bench.ask(bench.engine(stub.url), Task(sampling={"temprature": 1}))
    assert "did you mean 'temperature'?" in str(end)
    assert not stub.requests


def test_json_is_asked_for_and_freed_of_its_wrapping(bench: Bench) -> None:
    with LlmStub([say('Here:\n```json\n{"a": [1]}\n```'), say("no json")]) as stub:
        engine = bench.engine(stub.url)
        task = Task(question="?", output_format={"a": ["a number"]})
        assert bench.ask(engine, task, task) == ['{"a": [1]}', "no json"]
    assert "a number" in stub.requests[0].text


@pytest.mark.parametrize("stream", [False, True])
def test_an_answer_may_come_in_parts(bench: Bench, *, stream: bool) -> None:
    with LlmStub([call("odd__echo", text="hi"), say("it said hi")]) as stub:
        engine = bench.engine(stub.url, stream=stream, servers=[bench.odd()])
        assert bench.ask(engine, "?") == ["it said hi"]
    assert {bool(request.body.get("stream")) for request in stub.requests} == {stream}


@pytest.mark.parametrize(
    ("reply", "kind", "infra"),
    [
        (fail(500), "ModelServerError", True),
        (fail(503), "ModelUnavailableError", True),
        (fail(429, retry_after=3), "ModelRateLimitError", True),
        (fail(401), "ModelAuthenticationError", True),
        (fail(400), "ModelRequestRejectedError", False),
        (cut(), "ModelConnectionError", True),
        (hang(), "ModelTimeout", True),
        (Reply({"role": "assistant"}, status=200), "NoAnswer", False),
        (say("  "), "NoAnswer", False),
    ],
)
def test_a_failure_of_the_model_is_never_an_answer(
    bench: Bench, reply: Reply, kind: str, *, infra: bool
) -> None:
    with LlmStub([reply, say("fine")]) as stub:
        engine = bench.engine(stub.url, request_timeout_s=2 if reply.hang else 30)
        end, after = bench.ask(engine, "?", "again")
    assert (end.kind, end.infra) == (kind, infra)
    assert end.retry_after_s == (3 if "RateLimit" in kind else None)
    assert after == "fine"


def test_a_model_that_is_down_is_a_failure_of_the_infrastructure(bench: Bench) -> None:
    with LlmStub([say("a")]) as stub:
        url = stub.url
    (end,) = bench.ask(bench.engine(url), "?")
    assert end.infra


def test_a_run_on_its_way_outlasts_a_failure(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    from agentpipe.engines.llm import model

    monkeypatch.setattr(model, "PAUSE_S", 0.01)
    with LlmStub([call("odd__echo", text="hi"), fail(500), cut(), say("at last")]) as stub:
        assert bench.ask(bench.engine(stub.url, servers=[bench.odd()]), "?") == ["at last"]
    assert len(stub.requests) == 4


def test_iterations_and_tokens_have_limits(bench: Bench) -> None:
    with LlmStub([call("odd__echo", text="again")]) as stub:
        few = bench.engine(stub.url, servers=[bench.odd()], max_iterations=3)
        (end,) = bench.ask(few, "?")
        assert (type(end).__name__, len(stub.requests)) == ("RunLimitExceeded", 3)
        cheap = bench.engine(stub.url, servers=[bench.odd()], max_total_tokens=20)
        (end,) = bench.ask(cheap, "?")
        assert "max_total_tokens is 20" in str(end)


def test_tools_may_be_named_and_their_errors_are_for_the_model(bench: Bench) -> None:
    script = [call("odd__fail", text="bad luck"), call("none__such"), say("I give up")]
    with LlmStub(script) as stub:
        servers = [bench.odd(tools=["fail", "echo"])]
        assert bench.ask(bench.engine(stub.url, servers=servers), "?") == ["I give up"]
    tools = {tool["function"]["name"] for tool in stub.requests[0].body["tools"]}
    assert tools == {"odd__fail", "odd__echo"}
    assert "Error: bad luck" in stub.requests[1].text
    assert "there is no tool" in stub.requests[2].text


@pytest.mark.parametrize(
    ("habits", "script", "message", "infra"),
    [
        (["die"], [say("a")], "no licence found", True),
        (["hang"], [say("a")], "was not ready within 1 s", True),
        ([], [call("odd__crash")], "was lost during a call: out of luck", True),
        ([], [call("odd__freeze")], "did not answer within 1 s (tool_limit_s)", True),
    ],
)
def test_a_server_that_fails_costs_the_run_and_not_the_next(
    bench: Bench, habits: list[str], script: list[Reply], message: str, *, infra: bool
) -> None:
    with LlmStub(script) as stub:
        limits = {"start_limit_s": 30, "tool_limit_s": 30}
        if "within 1 s" in message:  # Only these wait for a limit.
            limits["tool_limit_s" if script[0].message.get("tool_calls") else "start_limit_s"] = 1
        engine = bench.engine(stub.url, servers=[bench.odd(*habits)], **limits)
        (end,) = bench.ask(engine, "?")
    assert message in str(end)
    assert getattr(end, "infra", True) is infra
    wait_until(lambda: not _children(), PATIENCE_S, "all have ended")
    with LlmStub([say("fine")]) as stub:
        engine = bench.engine(stub.url, servers=[bench.odd()])
        assert bench.ask(engine, "?") == ["fine"]


def test_a_program_that_is_missing_is_named(bench: Bench) -> None:
    with LlmStub([say("a")]) as stub:
        servers = [{"name": "odd", "command": "none-such"}]
        (end,) = bench.ask(bench.engine(stub.url, servers=servers), "?")
        servers = [{"name": "odd", "command": sys.executable, "cwd": "/none/such"}]
        (elsewhere,) = bench.ask(bench.engine(stub.url, servers=servers), "?")
    assert "no such program 'none-such'" in str(end)
    assert "no such folder '/none/such'" in str(elsewhere)
    assert is_permanent(end)


def test_a_server_that_ends_at_once_is_a_failure_of_the_set_up_and_a_slow_one_is_not(
    bench: Bench,
) -> None:
    with LlmStub([say("a")]) as stub:
        habits = {"die": 30, "hang": 1}
        engines = [
            bench.engine(stub.url, servers=[bench.odd(habit)], start_limit_s=limit_s)
            for habit, limit_s in habits.items()
        ]
        ends = [bench.ask(engine, "?")[0] for engine in engines]
    assert [(is_infra(end), is_permanent(end)) for end in ends] == [(True, True), (True, False)]


def test_rubbish_on_stdout_is_passed_over(bench: Bench) -> None:
    with LlmStub([call("odd__noise", text="x"), say("fine")]) as stub:
        engine = bench.engine(stub.url, servers=[bench.odd("rubbish", "loud")])
        assert bench.ask(engine, "?") == ["fine"]


@pytest.mark.parametrize(("keep", "servers"), [(True, 1), (False, 3)])
def test_sessions_are_kept_between_tasks_unless_told_otherwise(
    bench: Bench, *, keep: bool, servers: int
) -> None:
    def script(request: Request) -> Reply:
        answers = [m["content"] for m in request.body["messages"] if m["role"] == "tool"]
        return say(answers[0]) if answers else call("odd__pid")

    with LlmStub(script) as stub:
        engine = bench.engine(stub.url, servers=[bench.odd()], keep_sessions=keep)
        assert len(set(bench.ask(engine, "?", "?", "?"))) == servers


def test_a_task_may_choose_its_servers_and_start_nothing_of_its_own(
    bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = {"stdio": {"command": sys.executable, "args": [ODD]}, "env": {"T": "{{ TOKEN }}"}}
    (tmp_path / "servers.json").write_text(json.dumps({"mine": entry}))
    monkeypatch.setenv("AGENTPIPE_MCP_SERVERS", str(tmp_path / "servers.json"))
    with LlmStub([call("mine__environ", text="T"), say("done"), say("none")]) as stub:
        engine = bench.engine(stub.url)
        wanted = [{"name": "mine", "tools": ["environ"]}]
        chosen = Task(question="?", mcp_servers=wanted, use_specified_server=True)
        evil = [{"name": "evil", "command": "touch", "args": ["x"]}]
        refused = Task(question="?", mcp_servers=evil, use_specified_server=True)
        env = {"OPENAI_API_KEY": KEY, "TOKEN": "of the context"}
        ends = bench.ask(engine, chosen, "without", refused, env=env)
    assert ends[:2] == ["done", "none"]
    assert "unknown MCP server 'evil'" in str(ends[2])
    assert "of the context" in stub.requests[1].text
    assert "tools" not in stub.requests[2].body


@pytest.mark.long
def test_servers_are_reached_by_sse_and_http_too(bench: Bench) -> None:
    for transport, path in (("sse", "/sse"), ("streamable-http", "/mcp")):
        with _served(transport) as port, LlmStub([call("far__add", a=2, b=3), say("5")]) as stub:
            url = f"http://127.0.0.1:{port}{path}"
            servers = [{"name": "far", "url": url, "type": transport}]
            assert bench.ask(bench.engine(stub.url, servers=servers), "?", "?") == ["5", "5"]
            assert '"5"' in stub.requests[1].text


SERVED = """
import sys
from mcp.server import MCPServer
server = MCPServer("far")
@server.tool()
def add(a: int, b: int) -> str:
    "Add."
    return str(a + b)
print("ready", flush=True)
server.run(sys.argv[1], host="127.0.0.1", port=int(sys.argv[2]))
"""


class _served:  # noqa: N801 - used as a function
    """A server made with the MCP library, on a local port."""

    def __init__(self, transport: str) -> None:
        from brokers.ports import free_port

        self._port = free_port()
        self._command = [sys.executable, "-c", SERVED, transport, str(self._port)]

    def __enter__(self) -> int:
        import socket

        quiet = subprocess.DEVNULL
        self._process = subprocess.Popen(self._command, stdout=quiet, stderr=quiet)

        def listens() -> bool:
            with socket.socket() as probe:
                return probe.connect_ex(("127.0.0.1", self._port)) == 0

        wait_until(listens, PATIENCE_S, "the server listens")
        return self._port

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()


@pytest.mark.long
def test_no_file_descriptor_and_no_process_leaks(bench: Bench) -> None:
    replies = [call("odd__echo", text="x"), say("a"), call("odd__crash"), say("b")]

    def script(request: Request) -> Reply:
        turns = sum(message["role"] == "tool" for message in request.body["messages"])
        crashing = "crash" in request.text
        return replies[2 if crashing and not turns else turns]

    with LlmStub(script) as stub:
        engine = bench.engine(stub.url, servers=[bench.odd()])
        bench.ask(engine, "warm", "crash")
        before = len(list(FILES.iterdir()))
        for _ in range(5):
            bench.ask(engine, *["x"] * 20)
            bench.ask(engine, "crash")
        # The stub's sockets belong to this process too, and close a moment later.
        wait_until(lambda: len(list(FILES.iterdir())) <= before, PATIENCE_S, "all is closed")
    wait_until(lambda: not _children(), PATIENCE_S, "all have ended")


def _children() -> set[int]:
    """Running MCP servers with this process's mark; other test processes have their own."""
    return processes_with(MARK)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"model": "gpt-4"}, "write the provider and the model"),
        ({"model": "opena:gpt-4"}, "unknown provider 'opena': did you mean 'openai'?"),
        ({"model": "openai:x", "instrution": "x"}, "did you mean 'instruction'?"),
        ({"model": "openai:x", "temperature": "hot"}, "temperature: expected int or float"),
        ({"model": "openai:x", "max_iterations": 0}, "max_iterations: expected an integer above 0"),
        ({"model": "openai:x", "servers": [{"name": "tme"}]}, "did you mean 'time'?"),
        ({"model": "openai:x", "servers": ["time"]}, "servers: expected a list of entries"),
        (
            {"model": "openai:x", "servers": [{"name": "time"}, {"name": "time", "command": "x"}]},
            "servers: two different servers are named 'time'",
        ),
        ({"model": "openai:x", "base_url": "localhost"}, "base_url: expected a URL"),
        ({"model": "openai:x", "base_url": "http://a/v1?key=b"}, "without ? and #"),
    ],
)
def test_a_mistake_in_the_config_is_told(bench: Bench, config: Any, message: str) -> None:
    with pytest.raises(AgentpipeError, match=message.replace("?", r"\?")):
        bench.open({"kind": "agent", "spec": {"name": "it", "type": "llm", "config": config}})


def test_a_key_that_is_missing_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    config = {"model": "anthropic:claude-sonnet-4-5"}
    spec = {"name": "it", "type": "llm", "config": config}
    (end,) = bench.ask(bench.open({"kind": "agent", "spec": spec}), "?", env={})
    assert "ANTHROPIC_API_KEY is not set" in str(end)
    assert is_permanent(end)


@pytest.mark.parametrize(
    "url", ["http://127.0.0.1:9/v1?key=x", "127.0.0.1:9/v1", "http://me:se/cret@h/v1"]
)
def test_a_wrong_address_in_a_variable_is_a_failure_of_the_set_up(bench: Bench, url: str) -> None:
    spec = {"name": "it", "type": "llm", "config": {"model": "openai:m"}}
    engine = bench.open({"kind": "agent", "spec": spec})
    (end,) = bench.ask(engine, "?", env={"OPENAI_API_KEY": KEY, "OPENAI_BASE_URL": url})
    assert str(end).startswith("OPENAI_BASE_URL: ")
    assert "cret" not in str(end)
    assert is_permanent(end)


# MCP-Universe's format.


def test_a_query_in_their_base_url_is_refused(bench: Bench) -> None:
    with pytest.raises(AgentpipeError, match=r"base_url: expected a URL .* without \? and #"):
        bench.open(*_theirs("http://127.0.0.1:9/v1?key=x"))


def _theirs(url: str, **config: Any) -> Iterator[dict[str, Any]]:
    llm = {"model_name": "gpt-4o", "base_url": url}
    yield {"kind": "llm", "spec": {"name": "llm-1", "type": "openai", "config": llm}}
    agent = {"llm": "llm-1", "instruction": "You are {{ ROLE }}.", **config}
    spec = {"name": "it", "type": "function-call", "config": agent}
    yield {"kind": "agent", "spec": spec}


# Runs in a worker.


@pytest.fixture
def llm(project: Project) -> Project:
    """A project with two agents, each with its own context, and a server that reads its env."""
    contexts = [{"env": {"OPENAI_API_KEY": f"{KEY}-{n}", "TOKEN": _token(n)}} for n in range(2)]
    project.collection("llm", "./llm.yaml", time_limit=20, max_retries=1, context=contexts)
    return project


def _token(n: int) -> str:
    return f"canary/of+context {n}"


def _serve(project: Project, stub: LlmStub) -> None:
    command = {"command": sys.executable, "args": [ODD, MARK]}
    server = {"name": "odd", **command, "env": {"T": "{{TOKEN}}"}}
    config = {"model": "openai:gpt-4o-mini", "base_url": stub.url, "servers": [server]}
    spec = {"name": "llm", "type": "llm", "config": config}
    project.write("llm.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))


def _reveal(request: Request) -> Reply:
    """Call a tool for the token, then repeat it in all the forms a model could use."""
    import base64
    from urllib.parse import quote

    answers = [m["content"] for m in request.body["messages"] if m["role"] == "tool"]
    if not answers:
        return call("odd__environ", text="T")
    token = answers[0]
    encoded = base64.b64encode(f"user:{token}".encode()).decode()
    # Length and last character are no secret, and tell the two tokens apart.
    return say(f"{len(token)} {token[-1]} {token} {quote(token)} {encoded} {json.dumps(token)}")


@pytest.mark.long
def test_each_context_reaches_its_own_tools_and_no_secret_gets_out(llm: Project) -> None:
    with LlmStub(_reveal) as stub:
        _serve(llm, stub)
        llm.send(*[f"question {n}" for n in range(200)], to="llm")
        llm.burst("--processes", "2")
        requests = list(stub.requests)
    results = llm.by_id()
    assert {result["outcome"] for result in results.values()} == {"ok"}
    for result in results.values():
        assert result["result"].startswith(f"19 {result['agent'][-1]} ***")
    for request in requests:
        mine = request.authorization[-1]
        assert _token(1 - int(mine)) not in request.text
    _assert_nowhere(llm, [_token(n) for n in range(2)])


def _assert_nowhere(project: Project, secrets: Sequence[str]) -> None:
    import base64
    from urllib.parse import quote

    stream = project.ok("tail", "--from", "beginning", "--timeout", "0", "--json").out
    shown = project.ok("tail", "--from", "beginning", "--timeout", "0").out
    texts = [stream.encode(), shown.encode()]
    texts += [file.read_bytes() for file in (project.folder / "store").iterdir()]
    for secret in secrets:
        forms = {secret, quote(secret), base64.b64encode(b"user:" + secret.encode()).decode()[8:-3]}
        for form in forms:
            assert not any(form.encode() in text for text in texts), form


def test_servers_end_with_a_worker_that_is_killed(llm: Project) -> None:
    with LlmStub([call("odd__freeze")]) as stub:
        _serve(llm, stub)
        fleet = llm.work("--processes", "1").ready(1)
        llm.send("a", "b", to="llm")
        # A third is started ahead.
        wait_until(lambda: len(_children()) >= 2, PATIENCE_S, "both servers run")
        (worker,) = fleet.pids
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: not _children(), PATIENCE_S, "the servers have ended")
        fleet.stop()
    wait_until(lambda: not _children(), PATIENCE_S, "those of the next worker too")

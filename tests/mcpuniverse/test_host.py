"""The engine's code that runs in MCP-Universe's Python; run by `make test-mcpuniverse`."""

from __future__ import annotations

import contextlib
import importlib
import json
import linecache
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.llm_stub import LlmStub, Reply, Request, call, cut, fail, hang, say
from tests.mcpuniverse.children import Child, host

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

CONTAINS_42 = {"func": "raw", "op": "contain", "value": "42"}
ECHO = {"name": "echo"}


@pytest.fixture(scope="session", autouse=True)
def _preloaded() -> None:
    os.environ["OPENAI_API_KEY"] = "the parent's"
    os.environ["OPENAI_BASE_URL"] = "http://127.0.0.1:9/the-parents"
    host.preload()


@pytest.fixture
def fork() -> Iterator[Callable[..., Child]]:
    children = []

    def forked(stub: LlmStub, before: Callable[[], None] = lambda: None, **env: str) -> Child:
        env = {"OPENAI_API_KEY": "key", "OPENAI_BASE_URL": stub.url, **env}
        children.append(Child(env, before))
        return children[-1]

    yield forked
    for child in children:
        child.hang_up()
        child.wait(30.0)


def config(kind: str = "basic", /, llm_type: str = "openai", **more: Any) -> str:
    """An agent and its LLM as JSON, which is valid YAML."""
    llm = {"kind": "llm", "spec": {"name": "llm-1", "type": llm_type, "config": {}}}
    more = {"llm": "llm-1", "instruction": "Answer.", **more}
    agent = {"kind": "agent", "spec": {"name": "main", "type": kind, "config": more}}
    return documents(llm, agent)


def documents(*components: dict[str, Any]) -> str:
    return "\n---\n".join(map(json.dumps, components))


def thought(**keys: Any) -> str:
    return json.dumps({"thought": "so", **keys})


def impatient() -> None:
    llm: Any = importlib.import_module("host.llm")
    llm.PATIENCE_S = 1.0


def test_a_basic_agent_answers_and_is_judged(fork: Callable[..., Child]) -> None:
    with LlmStub([say("It is 42.")]) as stub:
        child = fork(stub)
        assert child.open(config()) == {"ready": True}
        done = child.run(
            question="How much?", evaluators=[CONTAINS_42, {"func": "raw", "op": "=", "value": "x"}]
        )
    assert done["answer"] == "It is 42."
    right, wrong = done["evaluations"]
    assert (right["passed"], right["response"], right["error"]) == (True, "It is 42.", "")
    assert (wrong["passed"], wrong["reason"] != "", wrong["error"]) == (False, True, "")
    assert "broken" not in right
    assert "broken" not in wrong
    usage = {"requests": 1, "input_tokens": 10, "output_tokens": 5, "cached_tokens": 4}
    assert done["usage"] == usage
    (request,) = stub.requests
    assert request.authorization == "Bearer key"
    assert "How much?" in request.text
    kinds = [span["records"][0]["data"]["type"] for span in child.spans]
    assert kinds == ["llm", "agent"]
    assert child.spans[-1]["id"] == child.spans[-1]["parent_id"]


def test_a_function_call_agent_uses_a_real_server(fork: Callable[..., Child]) -> None:
    script = [call("echo__echo_tool", text="ping-42"), say(thought(answer="42"))]
    with LlmStub(script) as stub:
        child = fork(stub)
        child.open(config("function-call", servers=[ECHO]))
        done = child.run(question="Echo.", evaluators=[CONTAINS_42])
    assert done["answer"] == "42"
    assert done["usage"]["requests"] == 2
    assert "ping-42" in stub.requests[1].text
    (tool,) = [span for span in child.spans if span["records"][0]["data"]["type"] == "tool"]
    assert tool["records"][0]["data"]["server"] == "echo"


def test_a_calculator_answers_react(fork: Callable[..., Child]) -> None:
    action = {"server": "calculator", "tool": "calculate", "arguments": {"expression": "6*7"}}
    script = [say(thought(action=action)), say(thought(answer={"n": 42}))]
    with LlmStub(script) as stub:
        child = fork(stub)
        child.open(config("react", servers=[{"name": "calculator"}]))
        evaluator = {"func": "json -> get(n)", "op": "=", "value": 42}
        done = child.run(question="6*7", output_format={"n": "<n>"}, evaluators=[evaluator])
    assert json.loads(done["answer"]) == {"n": 42}
    assert done["evaluations"][0]["passed"]
    assert "42" in stub.requests[1].text


def test_reflection_answers(fork: Callable[..., Child]) -> None:
    action = {"server": "echo", "tool": "echo_tool", "arguments": {"text": "pong"}}
    script = [
        say(thought(action=action)),
        say(json.dumps({"reflection": "good"})),
        say(thought(answer="pong")),
    ]
    with LlmStub(script) as stub:
        child = fork(stub)
        child.open(config("reflection", servers=[ECHO]))
        assert child.run(question="Echo.")["answer"] == "pong"


def chain() -> str:
    llm = {"kind": "llm", "spec": {"name": "llm-1", "type": "openai", "config": {}}}
    members = [
        {
            "kind": "agent",
            "spec": {
                "name": f"agent-{n}",
                "type": "react",
                "config": {"llm": "llm-1", "servers": [ECHO] if n == 1 else []},
            },
        }
        for n in (1, 2)
    ]
    workflow = {
        "kind": "workflow",
        "spec": {"name": "w", "type": "chain", "config": {"agents": ["agent-1", "agent-2"]}},
    }
    main = {
        "kind": "agent",
        "spec": {
            "name": "main",
            "type": "workflow",
            "is_main": True,
            "config": {"workflow": "w", "instruction": "Main."},
        },
    }
    return documents(llm, *members, workflow, main)


def test_a_chain_forgets_one_task_before_the_next(fork: Callable[..., Child]) -> None:
    with LlmStub([say(thought(answer=f"reply-{n}")) for n in range(1, 5)]) as stub:
        child = fork(stub)
        child.open(chain())
        assert child.run(question="first-question")["answer"] == "reply-2"
        assert child.run(question="second-question")["answer"] == "reply-4"
    assert "reply-1" in stub.requests[1].text
    for request in stub.requests[2:]:
        assert "first-question" not in request.text
        assert "reply-1" not in request.text
        assert "reply-2" not in request.text


def test_react_forgets_one_task_before_the_next(fork: Callable[..., Child]) -> None:
    with LlmStub([say(thought(answer="secret-1")), say(thought(answer="2"))]) as stub:
        child = fork(stub)
        child.open(config("react"))
        child.run(question="first-question")
        child.run(question="second-question")
    assert "first-question" not in stub.requests[1].text
    assert "secret-1" not in stub.requests[1].text


def parallel() -> str:
    llm = {"kind": "llm", "spec": {"name": "llm-1", "type": "openai", "config": {}}}
    members = [
        {
            "kind": "agent",
            "spec": {
                "name": name,
                "type": "react",
                "config": {"llm": "llm-1", "instruction": f"You are {name}."},
            },
        }
        for name in ("wrong", "slow", "last")
    ]
    spec = {"agents": ["wrong", "slow"], "aggregator": "last"}
    workflow = {
        "kind": "workflow",
        "spec": {"name": "w", "type": "parallelization", "config": spec},
    }
    return documents(llm, *members, workflow)


def test_what_is_left_of_a_failed_workflow_asks_no_llm(fork: Callable[..., Child]) -> None:
    def script(request: Request) -> Reply:
        wrong = "You are wrong" in request.text
        return fail(401) if wrong else say(thought(result="not yet"), delay_s=0.5)

    with LlmStub(script) as stub:
        child = fork(stub)
        child.open(parallel())
        assert child.error(question="q")["permanent"] is True
        asked = len(stub.requests)
        time.sleep(1.5)
        assert len(stub.requests) <= max(asked, 2)


SHOW_ENV = """
import os, sys
from mcp.server.fastmcp import FastMCP
server = FastMCP("show")
@server.tool()
def show() -> str:
    return " ".join([os.environ.get("TOKEN", "none"), os.environ.get("RENAMED", "none"),
                     sys.argv[1], os.environ.get("OTHER", "none")])
@server.tool()
def broken() -> str:
    raise ValueError("no luck")
@server.tool()
def die() -> str:
    os._exit(1)
server.run()
"""


def show_server(folder: Path) -> dict[str, Any]:
    (folder / "show.py").write_text(SHOW_ENV)
    stdio = {"command": "python3", "args": [str(folder / "show.py"), "arg-{{TOKEN}}"]}
    return {"show": {"stdio": stdio, "env": {"RENAMED": "was-{{TOKEN}}"}}}


def test_a_context_reaches_everything_and_no_other_child(
    fork: Callable[..., Child], tmp_path: Path
) -> None:
    task = {
        "question": "Use {{ PLACE }} and {{ UNKNOWN }}",
        "evaluators": [{"func": "raw", "op": "=", "value": ["{{ PLACE }}"]}],
    }
    with (
        LlmStub([call("show__show"), say(thought(answer="x"))]) as one,
        LlmStub([call("show__show"), say(thought(answer="x"))]) as two,
    ):
        children = [
            fork(one, PLACE="place-1", TOKEN="token-1", OPENAI_API_KEY="key-1", OTHER="other-1"),
            fork(two, PLACE="place-2", TOKEN="token-2", OPENAI_API_KEY="key-2"),
        ]
        for child in children:
            child.open(config("function-call", servers=[{"name": "show"}]), show_server(tmp_path))
        first, second = [child.run(**task) for child in children]
    for number, stub in ((1, one), (2, two)):
        assert f"Use place-{number} and {{{{ UNKNOWN }}}}" in stub.requests[0].text
        assert {request.authorization for request in stub.requests} == {f"Bearer key-{number}"}
    assert "token-1 was-token-1 arg-token-1 other-1" in one.requests[1].text
    assert "token-2 was-token-2 arg-token-2 none" in two.requests[1].text
    assert first["evaluations"][0]["config"]["value"] == ["place-1"]
    assert second["evaluations"][0]["config"]["value"] == ["place-2"]


def with_functions() -> None:
    """Register preparations and cleanups that leave marks in the child's folder."""
    from mcpuniverse.benchmark.cleanups import CLEANUP_FUNCTIONS
    from mcpuniverse.benchmark.task import PREPARE_FUNCTIONS

    async def prepare(**arguments: Any) -> None:
        mark(f"prepared {arguments['name']} in {arguments['category']}")
        os.environ["PREPARED"] = arguments["name"]

    async def clean(**arguments: Any) -> None:
        mark(f"cleaned {arguments['name']} PREPARED={os.environ.get('PREPARED')}")

    PREPARE_FUNCTIONS["test_prepare"] = prepare
    CLEANUP_FUNCTIONS["echo", "test_clean"] = clean
    impatient()


def mark(text: str) -> None:
    with Path("marks").open("a") as marks:
        marks.write(text + "\n")


def marks(child: Child) -> list[str]:
    return (child.log.parent / "marks").read_text().splitlines()


FRAMED = {
    "category": "cat",
    "question": "Echo.",
    "prepares": [{"prepare_func": "test_prepare", "prepare_args": {"name": "p"}}],
    "cleanups": [
        {
            "server": "echo",
            "tool": "",
            "cleanup_func": "test_clean",
            "cleanup_args": {"name": "always"},
        },
        {
            "server": "echo",
            "tool": "echo_tool",
            "cleanup_func": "test_clean",
            "cleanup_args": {"name": "$text"},
        },
    ],
}


@pytest.mark.parametrize("end", ["answer", "failure", "cancel"])
def test_preparations_run_before_and_cleanups_after(fork: Callable[..., Child], end: str) -> None:
    last = {"answer": say(thought(answer="x")), "failure": fail(500), "cancel": hang()}[end]
    with LlmStub([call("echo__echo_tool", text="said"), last]) as stub:
        child = fork(stub, with_functions)
        child.open(config("function-call", servers=[ECHO]))
        child.begin(**FRAMED)
        if end == "cancel":
            stub.wait_for(2)
            child.send({"cancel": True})
        reply = child.receive()
        assert ("done" in reply) == (end == "answer"), reply
        cleaned = ["cleaned said PREPARED=p", "cleaned always PREPARED=p"]
        assert marks(child) == ["prepared p in cat", *cleaned]
        if end == "cancel":
            assert reply["error"]["type"] == "Cancelled"


def test_what_a_preparation_sets_is_gone_with_its_task(fork: Callable[..., Child]) -> None:
    with LlmStub([say("x")]) as stub:
        child = fork(stub, with_functions)
        child.open(config())
        child.run(**FRAMED)
        child.run(**{**FRAMED, "prepares": []})
        assert marks(child)[-1] == "cleaned always PREPARED=None"


def with_a_break_in_cleanups() -> None:
    import asyncio

    from mcpuniverse.benchmark.cleanups import CLEANUP_FUNCTIONS

    async def clean(**_: Any) -> None:
        for task in asyncio.all_tasks():  # As anyio does when a connection breaks.
            if "_live" in repr(task):
                task.cancel()
        await asyncio.sleep(0.2)
        mark("cleaned")

    with_functions()
    CLEANUP_FUNCTIONS["echo", "test_clean"] = clean


def test_a_connection_that_breaks_during_cleanups_breaks_nothing_else(
    fork: Callable[..., Child],
) -> None:
    with LlmStub([say(thought(answer="x"))]) as stub:
        child = fork(stub, with_a_break_in_cleanups)
        child.open(config("function-call", servers=[ECHO]))
        assert child.run(**FRAMED)["answer"] == "x"
        assert marks(child)[-1] == "cleaned"
        assert child.run(question="q")["answer"] == "x"


@pytest.mark.parametrize("kind", ["basic", "function-call", "react", "reflection"])
@pytest.mark.parametrize(
    ("reply", "infra", "retry_after_s"),
    [
        (fail(500), True, None),
        (fail(429, retry_after=120), True, 120.0),
        (cut(), True, None),
        (fail(401), True, None),
        (fail(400), False, None),
    ],
    ids=["500", "429", "cut", "401", "400"],
)
def test_a_failing_llm_is_no_answer(
    fork: Callable[..., Child],
    kind: str,
    reply: Any,
    infra: bool,  # noqa: FBT001
    retry_after_s: float | None,
) -> None:
    with LlmStub([reply, reply, reply, reply, say(thought(answer="late"))]) as stub:
        child = fork(stub, impatient)
        child.open(config(kind))
        began = time.monotonic()
        error = child.error(question="q", evaluators=[CONTAINS_42])
        assert time.monotonic() - began < 10.0
        assert error["type"] == "LlmFailed"
        assert (error["infra"], error["retry_after_s"]) == (infra, retry_after_s)
        assert error["message"]
        llm = [span["records"] for span in child.spans if span["records"]]
        assert llm[0][0]["data"]["error"]


LLMS = {
    "claude": "ANTHROPIC_BASE_URL",
    "ollama": "OLLAMA_URL",
    "local_llm": "LOCAL_LLM_BASE_URL",
}


@pytest.mark.parametrize("kind", LLMS)
@pytest.mark.parametrize("status", [500, 401])
def test_llms_of_other_kinds_fail_likewise(
    fork: Callable[..., Child], kind: str, status: int
) -> None:
    with LlmStub([fail(status)]) as stub:
        url = stub.url.removesuffix("/v1")
        child = fork(stub, impatient, ANTHROPIC_API_KEY="a", **{LLMS[kind]: url})
        child.open(config(llm_type=kind))
        error = child.error(question="q")
    assert (error["type"], error["infra"]) == ("LlmFailed", True), error
    assert error["permanent"] is (status == 401)
    assert str(status) in error["message"]


def test_claude_code_that_cannot_start_is_no_answer(fork: Callable[..., Child]) -> None:
    agent = {"kind": "agent", "spec": {"name": "main", "type": "claude-code", "config": {}}}
    with LlmStub([say("x")]) as stub:
        child = fork(stub, PATH="/nowhere")
        child.open(json.dumps(agent))
        assert "laude" in child.error(question="q")["message"]


@pytest.mark.parametrize(
    ("public", "first", "second"),
    [(None, "{{ OPENAI_API_KEY }}", "Lima"), (["TOKEN"], "{{ OPENAI_API_KEY }}", "{{ PLACE }}")],
)
def test_a_task_reads_no_credential(
    fork: Callable[..., Child], public: list[str] | None, first: str, second: str
) -> None:
    question = "{{ OPENAI_API_KEY }} {{ PLACE }} {{ OPENAI_API_KEY[:3] }} {{ TOKEN }}"
    oracle = "{% if OPENAI_API_KEY == 'sk-canary' %}x{% else %}no{% endif %}"
    value = {"func": "raw", "op": "=", "value": [oracle, "{{ OPENAI_API_KEY }}"]}
    env = {"OPENAI_API_KEY": "sk-canary", "PLACE": "Lima", "TOKEN": "shown"}
    with LlmStub([say("x")]) as stub:
        child = fork(stub, **env)
        child.open(config(), public=public)
        done = child.run(question=question, evaluators=[value])
        token = "shown" if public else "{{ TOKEN }}"
        assert f"{first} {second} {{{{  {token}" in stub.requests[0].text
        assert "sk-" not in stub.requests[0].text
    assert done["evaluations"][0]["config"]["value"] == ["no", "{{ OPENAI_API_KEY }}"]


def test_a_question_runs_no_python(fork: Callable[..., Child]) -> None:
    question = "{{ ''.__class__.__mro__[1].__subclasses__() }}"
    with LlmStub([say("x")]) as stub:
        child = fork(stub)
        child.open(config())
        assert child.error(question=question)["type"] == "SecurityError"
        assert stub.requests == []


def test_a_short_outage_of_the_llm_is_waited_for(fork: Callable[..., Child]) -> None:
    with LlmStub([fail(500), fail(429, retry_after=0.2), cut(), say("back")]) as stub:
        child = fork(stub)
        child.open(config())
        assert child.run(question="q")["answer"] == "back"


def test_a_failed_agent_does_not_poison_the_next_task(fork: Callable[..., Child]) -> None:
    script = [
        call("echo__echo_tool", text="left-behind"),
        fail(401),
        call("echo__echo_tool", text="afresh"),
        say(thought(answer="fine")),
    ]
    with LlmStub(script) as stub:
        child = fork(stub, impatient)
        child.open(config("function-call", servers=[ECHO]))
        assert child.error(question="q")["permanent"] is True
        assert child.run(question="q2")["answer"] == "fine"
        assert "left-behind" not in stub.requests[-1].text


@pytest.mark.parametrize("kind", ["basic", "function-call", "react"])
def test_a_hanging_llm_is_cancelled(fork: Callable[..., Child], kind: str) -> None:
    with LlmStub([hang(), say(thought(answer="next"))]) as stub:
        child = fork(stub)
        child.open(config(kind))
        child.begin(question="q")
        stub.wait_for(1)
        began = time.monotonic()
        child.send({"cancel": True})
        error = child.next_error()
        assert time.monotonic() - began < 3.0
        assert (error["type"], "stuck" in error) == ("Cancelled", False)
        assert "next" in str(child.run(question="q2")["answer"])


def test_a_pause_between_tries_is_cancelled(fork: Callable[..., Child]) -> None:
    with LlmStub([fail(500)]) as stub:
        child = fork(stub)
        child.open(config("function-call"))
        child.begin(question="q")
        stub.wait_for(3)  # MCP-Universe now waits for ten seconds.
        time.sleep(0.5)
        began = time.monotonic()
        child.send({"cancel": True})
        assert child.next_error()["type"] == "Cancelled"
        assert time.monotonic() - began < 3.0


def with_a_stuck_evaluator() -> None:
    from mcpuniverse.evaluator.functions import COMPARISON_FUNCTIONS

    async def stuck(*_: Any, **__: Any) -> Any:
        threading.Event().wait()

    COMPARISON_FUNCTIONS["stuck"] = stuck
    with_functions()
    session: Any = importlib.import_module("host.session")
    session.GRACE_S = 0.5


def test_what_nothing_ends_is_left_behind_but_cleaned_up(fork: Callable[..., Child]) -> None:
    with LlmStub([say("x")]) as stub:
        child = fork(stub, with_a_stuck_evaluator)
        child.open(config())
        child.begin(**FRAMED, evaluators=[{"func": "raw", "op": "stuck", "value": 1}])
        stub.wait_for(1)
        time.sleep(0.5)
        child.send({"cancel": True})
        error = child.next_error()
        assert (error["type"], error["stuck"]) == ("Cancelled", True)
        assert marks(child)[-1].startswith("cleaned always")
        assert child.run(question="q")["answer"] == "x"


def with_prints() -> None:
    from mcpuniverse.agent.basic import BasicAgent

    execute: Any = BasicAgent._execute  # noqa: SLF001

    async def printing(self: Any, *args: Any, **kwargs: Any) -> Any:
        print('{"done": {"answer": "forged"}}', flush=True)  # noqa: T201
        os.write(1, b"raw\n")
        return await execute(self, *args, **kwargs)

    BasicAgent._execute = printing  # noqa: SLF001


def test_prints_go_to_the_log(fork: Callable[..., Child]) -> None:
    with LlmStub([say("real")]) as stub:
        child = fork(stub, with_prints)
        child.open(config())
        assert child.run(question="q")["answer"] == "real"
        assert "forged" in child.log.read_text()


def test_the_tasks_seed_is_for_this_task(fork: Callable[..., Child]) -> None:
    with LlmStub([say("x")]) as stub:
        child = fork(stub)
        child.open(config())
        for seed in (7, None, 8):
            child.run(question="q", seed=seed)
    assert [request.seed for request in stub.requests] == [7, 12345, 8]


def test_a_broken_evaluator_is_not_a_wrong_answer(fork: Callable[..., Child]) -> None:
    def broken() -> None:
        from mcpuniverse.evaluator.functions import COMPARISON_FUNCTIONS

        async def unreachable(*_: Any, **__: Any) -> Any:
            raise ConnectionError("no network")

        COMPARISON_FUNCTIONS["unreachable"] = unreachable

    evaluators = [
        {"func": "json", "op": "=", "value": 1},
        {"func": "raw", "op": "<", "value": 5},
        {"func": "raw", "op": "nonsense", "value": 5},
        {"func": "nonsense", "op": "=", "value": 5},
        {"func": "raw", "op": "in", "value": 5},
        {"func": "raw", "op": "unreachable", "value": 5},
    ]
    with LlmStub([say("no json")]) as stub:
        child = fork(stub, broken)
        child.open(config())
        evaluations = child.run(question="q", evaluators=evaluators)["evaluations"]
    assert [each.get("broken", False) for each in evaluations] == [False] * 2 + [True] * 4
    assert [bool(each["error"]) for each in evaluations] == [False] * 2 + [True] * 4
    assert not any(each["passed"] for each in evaluations)


def _by_place(**op_args: Any) -> dict[str, Any]:
    return {"func": "json", "op": "google_maps.city_name_match", "op_args": op_args}


OF_ROUTES = ("validate_number_of_routes", "are_stops_different", "places_in_cities_visited")
OF_STOPS = ("stop_include_keys", "validate_location", "is_a_validate_stop", "places_in_country")
ODD_STOPS: list[Any] = [{}, {"stops": 5}, {"stops": [{}]}, {"stops": ["x"]}]
# MCP-Universe raises for each of these: the answer's shape is not what the operator expects.
WRONG_SHAPES: list[tuple[Any, dict[str, Any]]] = [
    ({}, _by_place(key="city", values=["Paris"])),
    ([], _by_place(key="city", values=["Paris"])),
    ({"city": 5}, _by_place(key="city", values=["Paris"])),
    ({"city": None}, _by_place(key="city", values=["Paris"])),
    ({}, {"func": "json", "op": "google_maps.validate_places", "op_args": {"place_type": "x"}}),
    ({}, {"func": "json", "op": "google_maps.compare_time_of_middle_point", "op_args": {}}),
    ("x", {"func": "json", "op": "google_maps.compare_time_of_middle_point", "op_args": {}}),
    *(({}, {"func": "json", "op": f"google_maps.{op}", "value": 1}) for op in OF_ROUTES),
    *(
        (answer, {"func": "json -> get(stops)", "op": f"google_maps.{op}", "op_args": ["Paris"]})
        for op in OF_STOPS[1:]
        for answer in ODD_STOPS
    ),
    (
        {},
        {"func": "json -> get(x)", "op": f"google_maps.{OF_STOPS[0]}", "op_args": {"keys": ["a"]}},
    ),
]


@pytest.mark.parametrize(("answer", "evaluator"), WRONG_SHAPES)
def test_an_operator_that_raises_for_the_answer_says_it_is_wrong(
    fork: Callable[..., Child], answer: Any, evaluator: dict[str, Any]
) -> None:
    with LlmStub([say(json.dumps(answer))]) as stub:
        child = fork(stub)
        child.open(config())
        (evaluation,) = child.run(question="q", evaluators=[evaluator])["evaluations"]
    assert (evaluation["passed"], evaluation["error"]) == (False, "")
    assert "broken" not in evaluation
    assert f"{evaluator['op']} raised " in evaluation["reason"]
    assert "\n" not in evaluation["reason"]


def _with_operators() -> None:
    import socket

    from mcpuniverse.evaluator.google_maps import functions

    namespace = vars(functions)
    code = """
async def asks_first(x, *args, **kwargs):
    ask()
    details = None
    for place in x:
        name = place["name"]
        details["types"]
async def unpacks(x, *args, **kwargs):
    first, second = x["pair"]
"""

    def ask() -> None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", 9))

    file = Path(functions.__file__).with_name("more.py")
    linecache.cache[str(file)] = (len(code), None, code.splitlines(keepends=True), str(file))
    namespace["ask"] = ask
    exec(compile(code, str(file), "exec"), namespace)
    for name in ("asks_first", "unpacks"):
        functions.compare_func(name=name)(namespace[name])


@pytest.mark.parametrize(
    ("answer", "evaluator", "broken"),
    [
        ({"city": "x"}, _by_place(), True),
        ({"city": "x"}, _by_place(key="city"), True),
        ({"city": "x"}, {"func": "json", "op": "google_maps.city_name_match"}, True),
        ([{"name": "x"}], {"func": "json", "op": "asks_first"}, True),
        ([{}], {"func": "json", "op": "asks_first"}, False),
        ({"pair": [1]}, {"func": "json", "op": "unpacks"}, False),
        ({"pair": 5}, {"func": "json", "op": "unpacks"}, False),
    ],
)
def test_an_operator_that_raises_for_its_arguments_or_a_service_is_broken(
    fork: Callable[..., Child],
    answer: Any,
    evaluator: dict[str, Any],
    broken: bool,  # noqa: FBT001
) -> None:
    with LlmStub([say(json.dumps(answer))]) as stub:
        child = fork(stub, _with_operators)
        child.open(config())
        (evaluation,) = child.run(question="q", evaluators=[evaluator])["evaluations"]
    assert (evaluation["passed"], evaluation.get("broken", False)) == (False, broken)
    assert bool(evaluation["error"]) == broken


def test_a_judge_without_its_llm_is_broken(fork: Callable[..., Child]) -> None:
    asked = {"question": "q", "correct_answer": "x"}
    judge = {"func": "raw", "op": "deepresearch.hle_llm_as_a_judge", "op_args": asked}
    with LlmStub([say("x"), fail(503)]) as stub:
        child = fork(stub)
        child.open(config())
        done = child.run(question="q", evaluators=[judge])
    (evaluation,) = done["evaluations"]
    assert (evaluation["passed"], evaluation["broken"]) == (False, True)
    assert "503" in evaluation["error"]
    assert evaluation["infra"]
    assert done["usage"]["requests"] == 1


def test_an_answer_that_is_kept_is_only_judged(fork: Callable[..., Child]) -> None:
    with LlmStub([]) as stub:
        child = fork(stub)
        child.open(config(servers=[{"name": "nowhere"}]))
        kept = {"answer": "It is 42."}
        done = child.run(question="q", evaluators=[CONTAINS_42], answered=kept)
    assert (done["answer"], done["evaluations"][0]["passed"]) == ("It is 42.", True)
    assert stub.requests == []
    assert child.spans == []


def test_a_tasks_own_servers_are_used_for_that_task(fork: Callable[..., Child]) -> None:
    with LlmStub([say(thought(answer="x"))]) as stub:
        child = fork(stub)
        child.open(config("function-call", servers=[ECHO]))
        own = {"use_specified_server": True, "mcp_servers": [{"name": "calculator"}]}
        for task in ({}, own, {}):
            child.run(question="q", **task)
    names = [request.body["tools"][0]["function"]["name"] for request in stub.requests]
    assert names == ["echo__echo_tool", "calculator__calculate", "echo__echo_tool"]


def with_one_try() -> None:
    from functools import partialmethod

    from mcpuniverse.mcp.client import MCPClient

    for name in ("connect_to_stdio_server", "connect_to_sse_server"):
        setattr(MCPClient, name, partialmethod(getattr(MCPClient, name), retries=1))


@pytest.mark.parametrize(
    ("server", "permanent"),
    [
        ({"name": "s"}, True),
        ({"name": "nowhere"}, True),
        ({"name": "s", "transport": "sse", "gateway_address": "http://127.0.0.1:9"}, False),
    ],
    ids=["command", "unknown", "network"],
)
def test_a_server_that_does_not_start_is_an_error(
    fork: Callable[..., Child],
    server: dict[str, Any],
    permanent: bool,  # noqa: FBT001
) -> None:
    with LlmStub([say("x")]) as stub:
        child = fork(stub, with_one_try)
        child.open(
            config("react", servers=[ECHO, server]),
            {"s": {"stdio": {"command": "no-such-command", "args": []}}},
        )
        error = child.error(question="q")
        assert (error["type"], error["infra"]) == ("ServersFailedError", True), error
        assert error["permanent"] is permanent
        assert stub.requests == []
        assert children_of(child.pid) == []


def test_a_failing_tool_is_the_models_matter(fork: Callable[..., Child], tmp_path: Path) -> None:
    with LlmStub([call("show__broken"), say(thought(answer="dealt with"))]) as stub:
        child = fork(stub, TOKEN="t")
        child.open(config("function-call", servers=[{"name": "show"}]), show_server(tmp_path))
        assert child.run(question="q")["answer"] == "dealt with"
        assert "no luck" in stub.requests[1].text


def test_a_server_that_died_makes_no_answer(fork: Callable[..., Child], tmp_path: Path) -> None:
    with LlmStub(
        [call("show__die"), say(thought(answer="sorry")), say(thought(answer="2"))]
    ) as stub:
        child = fork(stub, TOKEN="t")
        child.open(config("function-call", servers=[{"name": "show"}]), show_server(tmp_path))
        error = child.error(question="q")
        assert (error["type"], error["infra"]) == ("ServerLostError", True), error
        assert child.run(question="q")["answer"] == "2"


def test_an_llm_that_says_nothing_is_an_error(fork: Callable[..., Child]) -> None:
    with LlmStub([say(None)]) as stub:
        child = fork(stub)
        child.open(config())
        error = child.error(question="q")
    assert (error["type"], error["infra"]) == ("LlmFailed", False)


def test_a_wrong_config_is_told(fork: Callable[..., Child]) -> None:
    with LlmStub([say("x")]) as stub:
        child = fork(stub)
        reply = child.open(config("basic", instructions="misspelt"))
        assert "instructions" in reply["error"]["message"]
        assert reply["error"]["permanent"] is True


def test_the_end_of_the_conversation_ends_the_servers(fork: Callable[..., Child]) -> None:
    with LlmStub([say(thought(answer="x"))]) as stub:
        child = fork(stub)
        child.open(config("function-call", servers=[ECHO]))
        child.run(question="q")
        (server,) = children_of(child.pid)
        child.hang_up()
        child.wait(10.0)
    assert not Path(f"/proc/{server}").exists()


def test_the_end_of_the_conversation_ends_a_run_with_its_cleanups(
    fork: Callable[..., Child],
) -> None:
    with LlmStub([call("echo__echo_tool", text="said"), hang()]) as stub:
        child = fork(stub, with_functions)
        child.open(config("function-call", servers=[ECHO]))
        child.begin(**FRAMED)
        stub.wait_for(2)
        child.hang_up()
        child.wait(10.0)
        assert marks(child)[-1].startswith("cleaned always")


def test_a_server_that_died_between_tasks_is_started_again(
    fork: Callable[..., Child], tmp_path: Path
) -> None:
    with LlmStub([say(thought(answer="1")), call("show__show"), say(thought(answer="2"))]) as stub:
        child = fork(stub, TOKEN="t")
        child.open(config("function-call", servers=[{"name": "show"}]), show_server(tmp_path))
        child.run(question="q")
        (server,) = children_of(child.pid)
        os.kill(server, signal.SIGKILL)
        time.sleep(0.5)
        reply = child.run(question="q2")
        assert reply["answer"] == "2"
        assert "was-t" in stub.requests[-1].text


def test_a_preparation_that_nobody_knows_is_an_error(fork: Callable[..., Child]) -> None:
    with LlmStub([say("x")]) as stub:
        child = fork(stub)
        child.open(config())
        error = child.error(question="q", prepares=[{"prepare_func": "prepare_nothing"}])
        assert "prepare_nothing" in error["message"]
        assert stub.requests == []


def children_of(pid: int) -> list[int]:
    listings = Path(f"/proc/{pid}/task").glob("*/children")
    return [int(child) for listing in listings for child in listing.read_text().split()]


def test_preloading_leaves_one_thread() -> None:
    assert [thread.name for thread in threading.enumerate()] == ["MainThread"]
    assert len(list(Path("/proc/self/task").iterdir())) == 1


def pss_mib(pid: int) -> float:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    raise AssertionError("no Pss")


def test_children_share_memory_and_start_soon(
    fork: Callable[..., Child], capsys: pytest.CaptureFixture[str]
) -> None:
    with LlmStub([say("x")]) as stub:
        children, ready, total = [], [], []
        for _ in range(8):
            began = time.monotonic()
            child = fork(stub)
            assert child.open(config()) == {"ready": True}
            ready.append(time.monotonic() - began)
            child.run(question="q", evaluators=[CONTAINS_42])
            children.append(child)
            total.append(pss_mib(os.getpid()) + sum(pss_mib(each.pid) for each in children))
    each = (total[-1] - total[0]) / 7
    with capsys.disabled():
        print(  # noqa: T201
            f"\nPSS: parent and one child {total[0]:.0f} MiB, each further child {each:.1f} MiB; "
            f"ready after {ready[0]:.2f} s, then {min(ready[1:]):.2f} to {max(ready[1:]):.2f} s"
        )
    assert each < total[0] / 8  # Unshared, it would be as large as the first.
    assert max(ready) < 10.0


SEEDED = """
import json, sys
sys.path.insert(0, sys.argv[1])
from host.components import read_components
from mcpuniverse.mcp.manager import MCPManager
from mcpuniverse.workflows.builder import WorkflowBuilder
import yaml

text = sys.stdin.read()
def builds(components):
    try:
        WorkflowBuilder(mcp_manager=MCPManager(config={}), config=components).build()
    except ValueError as error:
        return str(error)
    return "built"
print(json.dumps([builds(read_components(text, {})), builds(list(yaml.safe_load_all(text)))]))
"""


def test_a_workflow_before_its_members_is_built_whatever_the_hash_seed() -> None:
    def basic(name: str) -> dict[str, Any]:
        spec = {"name": name, "type": "basic", "config": {"llm": "l"}}
        return {"kind": "agent", "spec": spec}

    def workflow(name: str, type_: str, **references: Any) -> dict[str, Any]:
        return {"kind": "workflow", "spec": {"name": name, "type": type_, "config": references}}

    text = documents(
        workflow("last", "chain", agents=["both", "c"]),
        workflow("both", "parallelization", agents=["a", "b"], aggregator="c"),
        *map(basic, ("a", "b", "c")),
        {"kind": "llm", "spec": {"name": "l", "type": "openai"}},
    )
    folder = str(Path(host.__file__).parents[1])
    built = []
    for seed in range(6):
        command = [sys.executable, "-c", SEEDED, folder]
        environ = {**os.environ, "PYTHONHASHSEED": str(seed)}
        done = subprocess.run(
            command, input=text.encode(), env=environ, check=True, capture_output=True
        )
        built.append(json.loads(done.stdout.splitlines()[-1]))
    assert [ours for ours, _ in built] == ["built"] * 6
    assert "Cycles detected in the definitions" in {theirs for _, theirs in built}

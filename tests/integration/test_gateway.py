"""Users' programs and classes ask models through a gateway, which records sampled tokens."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.core.result import Result
from agentpipe.rollouts import samples
from tests.llm_stub import LlmStub, Reply, TokenIds, fail, hang, say
from tests.support import slowness

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.integration.project import Project
    from tests.llm_stub import Request

KEY = "sk-real-0123456789abcdef"
FIRST, SECOND = TokenIds([1, 2], [3, 4]), TokenIds([1, 2, 3, 4, 5], [6])
# Used by both kinds of agents; only the standard library, as any client could.
CLIENT = """
import json, os, sys, urllib.error, urllib.request

def post(env, path, body, headers=(), timeout_s=60):
    anthropic = path.endswith("messages")
    base = env["ANTHROPIC_BASE_URL" if anthropic else "OPENAI_BASE_URL"]
    key = env["ANTHROPIC_API_KEY" if anthropic else "OPENAI_API_KEY"]
    credential = {"x-api-key": key} if anthropic else {"Authorization": "Bearer " + key}
    request = urllib.request.Request(
        base + path, json.dumps(body).encode(),
        {"Content-Type": "application/json", **credential, **dict(headers)})
    try:
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            return response.status, response.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()

def ask(env, messages, headers=(), **more):
    return post(env, "/chat/completions", {"model": "m", "messages": messages, **more}, headers)

def act(question, env):
    first = [{"role": "user", "content": question}]
    if question == "env":
        return json.dumps({n: v for n, v in env.items() if "_KEY" in n or "_URL" in n})
    if question == "messages":
        body = {"model": "m", "max_tokens": 9, "messages": first}
        return post(env, "/v1/messages", body)[1]
    if question == "stream":
        return ask(env, first, stream=True)[1]
    if question == "two":
        return str(ask(env, first, n=2)[0])
    if question == "files":
        return str(post(env, "/files", {})[0])
    if question == "again":
        given = ask(env, first)
        assert ask(env, first, {"x-stainless-retry-count": "1"}) == given
        return "the same"
    if question == "give up":
        try:
            post(env, "/chat/completions", {"model": "m", "messages": first}, timeout_s=1.5)
        except OSError:
            raise SystemExit("it takes too long")
    if question == "another key":
        base = env["OPENAI_BASE_URL"].partition("/t/")[0] + "/v1"
        good = post({**env, "OPENAI_BASE_URL": base}, "/chat/completions", {"messages": first})
        bad = post({**env, "OPENAI_BASE_URL": base, "OPENAI_API_KEY": "x"}, "/chat/completions", {})
        return f"{good[0]} {bad[0]}"
    status, answer = ask(env, first)
    if status != 200:
        raise SystemExit(f"{status} {answer}")
    said = json.loads(answer)["choices"][0]["message"]
    ask(env, [*first, said, {"role": "user", "content": "sure?"}])
    return answer
"""
PROGRAM = CLIENT + "\nprint(act(json.load(sys.stdin)['question'], os.environ))\n"
CLASS = (
    CLIENT
    + """
assert "sk-real" not in str(dict(os.environ)), "the real key is where the class is imported"

class Client:
    def execute(self, task, context):
        try:
            return act(task.question, context.env)
        except SystemExit as error:
            raise RuntimeError(str(error)) from error.__context__
"""
)

# It closes its connection as soon as its run is cancelled.
WAITS = """
import httpx2

class Client:
    async def execute(self, task, context):
        async with httpx2.AsyncClient(timeout=60) as client:
            await client.post(context.env["OPENAI_BASE_URL"] + "/chat/completions", json={})
"""


@pytest.fixture(params=["command", "python", "python process"])
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def run(
    project: Project,
    kind: str,
    script: Sequence[Reply] | Callable[[Request], Reply],
    question: str,
    *,
    tokens: str = "require",
    limits: dict[str, Any] | None = None,
    client: str = CLASS,
    **task: Any,
) -> tuple[dict[str, Any], list[Request]]:
    project.write("program.py", PROGRAM)
    project.write("client.py", client)
    config: dict[str, Any] = {"class": "client:Client"}
    if kind == "command":
        config = {"argv": [sys.executable, "{{ here }}/program.py"]}
    type_, _, isolation = kind.partition(" ")
    spec = {"name": "client", "type": type_, "config": config}
    project.write("client.yaml", yaml.safe_dump({"kind": "agent", "spec": spec}))
    with LlmStub(script) as stub:
        # The stub serves both protocols.
        urls = {"OPENAI_BASE_URL": stub.url, "ANTHROPIC_BASE_URL": stub.url.removesuffix("/v1")}
        env = {**urls, "OPENAI_API_KEY": KEY, "ANTHROPIC_API_KEY": KEY}
        record = {"tokens": tokens}
        project.collection(
            config="./client.yaml",
            record=record,
            context=[{"env": env}],
            isolation=isolation or "coroutine",
            max_retries=0,
            breaker=0,
            **(limits or {}),
        )
        project.send({"question": question, "task_id": "t", **task})
        project.burst("--processes", "1")
    (result,) = project.results()
    return result, stub.requests


def ids(reply: Reply, given: TokenIds) -> Reply:
    return replace(reply, ids=given)


@pytest.mark.long
def test_what_an_agent_asks_is_recorded_with_its_ids(project: Project, kind: str) -> None:
    script = [ids(say("four"), FIRST), ids(say("yes"), SECOND)]
    result, requests = run(project, kind, script, "2 and 2?", seed=7, sampling={"temperature": 0.5})
    assert result["outcome"] == "ok", result["error"]
    assert [each.authorization for each in requests] == [f"Bearer {KEY}"] * 2
    assert [(each.seed, each.body["temperature"]) for each in requests] == [(7, 0.5)] * 2
    (sample,) = samples(Result(**result))
    assert sample.input_ids == [1, 2, 3, 4, 5, 6]
    assert sample.loss_mask == [0, 0, 1, 1, 0, 1]
    answer = json.loads(result["result"])
    assert "prompt_token_ids" not in answer
    assert {"token_ids", "logprobs"}.isdisjoint(answer["choices"][0])
    records = [each["records"][0]["data"] for each in result["trace"]]
    asked = [each for each in records if each["type"] == "llm"]
    assert [each["response"] for each in asked] == ["four", "yes"]
    assert [each["messages"][-1]["content"] for each in asked] == ["2 and 2?", "sure?"]
    assert len(asked[1]["messages"]) == 1
    assert result["usage"]["requests"] == 2
    assert result["usage"]["input_tokens"] == 20


@pytest.mark.long
def test_a_stream_is_passed_on_and_recorded(project: Project, kind: str) -> None:
    result, _ = run(project, kind, [ids(say("four, I think"), FIRST)], "stream")
    assert result["outcome"] == "ok", result["error"]
    assert result["result"].rstrip().endswith("data: [DONE]")
    assert "token_ids" not in result["result"]
    (sample,) = samples(Result(**result))
    assert sample.logprobs == [0.0, 0.0, -0.003, -0.004]


@pytest.mark.long
def test_no_real_key_reaches_the_agent(project: Project, kind: str) -> None:
    result, _ = run(project, kind, [say("-")], "env", tokens="try")
    env = json.loads(result["result"])
    assert KEY not in env.values()
    assert env["OPENAI_BASE_URL"].startswith("http://127.0.0.1:")
    assert env["OPENAI_BASE_URL"] == env["ANTHROPIC_BASE_URL"] + "/v1"
    assert env["OPENAI_API_KEY"] == env["ANTHROPIC_API_KEY"]


@pytest.mark.long
def test_anthropics_protocol_is_recorded_without_ids(project: Project, kind: str) -> None:
    result, (request,) = run(project, kind, [say("four")], "messages", tokens="try")
    assert request.path == "/v1/messages"
    assert json.loads(result["result"])["content"][0]["text"] == "four"
    assert result["rollout"]["gaps"] == [{"code": "no_token_ids", "turn": 0}]
    assert result["usage"]["output_tokens"] == 5


@pytest.mark.long
def test_a_clients_own_retry_is_no_second_turn(project: Project, kind: str) -> None:
    result, requests = run(project, kind, [ids(say("four"), FIRST)], "again")
    assert (result["outcome"], result["result"]) == ("ok", "the same"), result["error"]
    assert len(requests) == 1


@pytest.mark.long
@pytest.mark.parametrize(("question", "status"), [("two", "400"), ("files", "404")])
def test_what_cannot_be_recorded_is_refused(
    project: Project, kind: str, question: str, status: str
) -> None:
    result, requests = run(project, kind, [say("-")], question, tokens="try")
    assert result["result"] == status
    assert not requests


@pytest.mark.long
def test_a_key_alone_leads_to_its_run(project: Project, kind: str) -> None:
    result, requests = run(project, kind, [ids(say("four"), FIRST)], "another key")
    assert result["result"] == "200 401"
    assert len(requests) == 1


@pytest.mark.long
def test_a_models_failure_is_the_runs(project: Project, kind: str) -> None:
    result, _ = run(project, kind, [fail(503)], "2 and 2?", tokens="try")
    assert (result["outcome"], result["reward"]) == ("infra_error", None)
    assert result["error"]["type"] == "ModelUnavailableError"


def test_a_model_that_hangs_until_the_agent_gives_up_is_not_the_agents_error(
    project: Project, kind: str
) -> None:
    result, _ = run(project, kind, [hang()], "give up", tokens="try")
    assert (result["outcome"], result["reward"]) == ("infra_error", None)
    assert result["error"]["type"] == "ModelTimeout"


@pytest.mark.parametrize("of", ["python", "python process"])
def test_a_time_limit_during_a_request_is_a_time_limit(project: Project, of: str) -> None:
    """Regression: the model was said to have hung."""
    limits = {"time_limit": 3 * slowness()}
    result, _ = run(project, of, [hang()], "-", tokens="try", limits=limits, client=WAITS)
    assert (result["outcome"], result["rollout"]["stop"]) == ("limit", "time")


@pytest.mark.long
def test_a_conversation_beyond_the_context_window_is_a_limit(project: Project, kind: str) -> None:
    too_long = fail(400, {"error": {"code": "context_length_exceeded", "message": "Too long."}})
    result, _ = run(project, kind, [too_long], "2 and 2?", tokens="try")
    assert (result["outcome"], result["reward"]) == ("limit", None)
    assert result["rollout"]["stop"] == "length"


@pytest.mark.long
def test_a_server_that_refuses_ids_is_asked_without(project: Project, kind: str) -> None:
    refused = fail(400, {"error": {"message": "unknown field return_token_ids"}})
    result, requests = run(project, kind, [refused, say("four"), say("yes")], "?", tokens="try")
    assert result["outcome"] == "ok", result["error"]
    assert ["logprobs" in each.body for each in requests] == [True, False, False]
    gaps = [{"code": "ids_refused", "turn": turn} for turn in range(2)]
    assert result["rollout"]["gaps"] == gaps


def test_required_ids_that_are_refused_are_a_failure_of_the_set_up(
    project: Project, kind: str
) -> None:
    refused = fail(400, {"error": {"message": "unknown field return_token_ids"}})
    result, _ = run(project, kind, [refused], "?")
    assert (result["outcome"], result["error"]["type"]) == ("infra_error", "NoTokenIds")


@pytest.mark.long
def test_a_stream_that_breaks_is_a_gap(project: Project, kind: str) -> None:
    reply = replace(ids(say("four, I"), FIRST), unended=True)
    result, _ = run(project, kind, [reply], "stream", tokens="try")
    failed = result["outcome"], result["error"]["type"]
    assert failed == ("infra_error", "IncompleteResponse"), result["error"]
    assert result["rollout"]["exact"] is False

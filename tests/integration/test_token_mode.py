"""With ``mode: tokens``, a model server gets back the ids that it sampled."""

from __future__ import annotations

import asyncio
import json
import sys
from typing import TYPE_CHECKING, Any

import httpx2
import pytest
import yaml

from agentpipe.core.context import Context
from agentpipe.core.result import Result
from agentpipe.core.rollout import Rollout, recording
from agentpipe.core.task import Task
from agentpipe.engines.gateway import run_gateway
from agentpipe.rollouts import samples
from tests.integration.llm_bench import ODD
from tests.llm_stub import LlmStub, fail, say
from tests.token_server import DEFAULT_LIMIT, END, LINE, TokenServer, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.integration.project import Project
    from tests.llm_stub import Reply, Request

    Script = Callable[[Request], Reply]

ANSWERS = ["seven", "yes, seven", "so it is"]


def talked(
    script: Script,
    *,
    by_tokens: bool = True,
    required: bool = True,
    policy_version: int | None = None,
    **more: Any,
) -> tuple[Rollout, list[httpx2.Response]]:
    """Three turns of a client through one run's gateway."""

    async def run(url: str) -> tuple[Rollout, list[httpx2.Response]]:
        rollout = Rollout(required=required, by_tokens=by_tokens, policy_version=policy_version)
        context = Context({"OPENAI_BASE_URL": url, "OPENAI_API_KEY": "k"})
        messages: list[Any] = [{"role": "user", "content": "3 and 4?"}]
        given = []
        with recording(rollout):
            async with run_gateway(Task(), context, {}) as gateway, httpx2.AsyncClient() as client:
                assert gateway is not None
                url = f"{gateway.base_url}/v1/chat/completions"
                for _ in range(3):
                    body = {"model": "m", "messages": messages, **more}
                    given.append(await client.post(url, json=body, timeout=60))
                    if given[-1].status_code != 200:
                        break
                    messages = [*messages, said(given[-1]), {"role": "user", "content": "sure?"}]
        return rollout, given

    with LlmStub(script) as stub:
        return asyncio.run(run(stub.url))


def said(response: httpx2.Response) -> dict[str, Any]:
    if "event-stream" not in response.headers["content-type"]:
        message: dict[str, Any] = response.json()["choices"][0]["message"]
        return message
    events = [json.loads(line[6:]) for line in response.text.splitlines() if line[6:7] == "{"]
    delta: dict[str, Any] = events[0]["choices"][0]["delta"]
    return delta


def test_each_prompt_begins_with_what_was_sampled() -> None:
    server = TokenServer(ANSWERS)
    rollout, responses = talked(server)
    assert [said(each)["content"] for each in responses] == ANSWERS
    record = rollout.to_dict("stop")
    (segment,) = record["segments"]
    assert (record["exact"], record["masked"]) == (True, 0)
    held = [*server.prompts[-1], *map(ord, ANSWERS[-1]), END]
    assert segment["token_ids"] == held
    sampled = [segment["token_ids"][start:end] for start, end in segment["sampled"]]
    assert sampled == [[*map(ord, answer), END] for answer in ANSWERS]
    assert record["versions"] == [7, 7]
    for response in responses:
        assert "prompt_token_ids" not in response.json()
        assert {"token_ids", "logprobs"}.isdisjoint(response.json()["choices"][0])


def test_by_messages_the_same_answers_come_back_as_other_ids() -> None:
    """Without this, the other tests would prove nothing."""
    record = talked(TokenServer(ANSWERS), by_tokens=False)[0].to_dict("stop")
    assert record["masked"] > 0


def test_an_answer_that_was_cut_is_closed_by_the_template() -> None:
    server = TokenServer(["seven...", "yes", "so"])
    record = talked(server)[0].to_dict("stop")
    assert (record["masked"], len(record["segments"])) == (0, 1)
    cut = [*map(ord, "seven..."), END, LINE]
    assert cut == server.prompts[1][len(server.prompts[0]) :][: len(cut)]


def test_a_template_that_rewrites_answers_gets_its_own_way() -> None:
    server = TokenServer(ANSWERS, forgets=True)
    record = talked(server)[0].to_dict("stop")
    assert "seven" not in read(server.prompts[2])
    assert record["exact"] is True
    assert record["masked"] == len(ANSWERS[0] + ANSWERS[1]) + 2


def test_a_client_that_asks_for_a_stream_gets_one() -> None:
    record_, responses = talked(TokenServer(ANSWERS), stream=True)
    assert all(each.text.endswith("data: [DONE]\n\n") for each in responses)
    assert [said(each)["content"] for each in responses] == ANSWERS
    assert record_.to_dict("stop")["masked"] == 0


def test_what_is_sampled_fits_into_the_context() -> None:
    """If a prompt has more ids than its text needs, that many fewer can be sampled."""
    server = TokenServer(ANSWERS)
    talked(server)
    most = [each["sampling_params"]["max_tokens"] for each in server.generated]
    assert most[0] == 100
    assert most[1] == 100 - (len("seven") - 3)
    kept = TokenServer(ANSWERS)
    talked(kept, max_tokens=100)
    assert {each["sampling_params"]["max_tokens"] for each in kept.generated} == {100}


def test_a_limit_that_vllm_does_not_repeat_holds() -> None:
    """vLLM leaves its default out of the rendered prompt, and takes a missing limit as no limit."""
    server = TokenServer(ANSWERS)
    talked(server, max_tokens=DEFAULT_LIMIT)
    assert {each["sampling_params"]["max_tokens"] for each in server.generated} == {DEFAULT_LIMIT}


def test_a_server_without_a_version_of_its_weights_has_the_policys() -> None:
    """vLLM names the version of weights loaded without one ``default``."""
    server = TokenServer(ANSWERS, version="default")
    assert talked(server, policy_version=3)[0].to_dict("stop")["versions"] == [3, 3]
    assert talked(server)[0].to_dict("stop")["versions"] == []


def by_messages_only(request: Request) -> Reply:
    if request.path != "/v1/chat/completions":
        return fail(404, {"detail": "Not Found"})
    return TokenServer(ANSWERS)._complete(request.body)  # noqa: SLF001


def test_a_server_that_cannot_is_asked_by_messages(caplog: pytest.LogCaptureFixture) -> None:
    rollout, responses = talked(by_messages_only, required=False)
    assert [each.status_code for each in responses] == [200] * 3
    assert rollout.is_exact
    assert "--enable-scale-out" in caplog.text


def test_where_ids_are_required_that_is_refused() -> None:
    _, (response,) = talked(by_messages_only)
    assert response.status_code == 502
    assert "--enable-scale-out" in response.text


def test_a_client_is_told_of_a_limit_as_its_server_does() -> None:
    def busy(request: Request) -> Reply:
        if request.path.endswith("/generate"):
            return fail(429, {"error": {"message": "too many"}}, retry_after=7)
        return TokenServer(ANSWERS)(request)

    _, (response,) = talked(busy)
    assert (response.status_code, response.headers["retry-after"]) == (429, "7")
    assert "too many" in response.text


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["coroutine", "process"])
def test_an_agent_of_type_llm_asks_by_ids(project: Project, isolation: str) -> None:
    server = TokenServer(["seven"])
    with LlmStub(server) as stub:
        result = run(project, stub.url, isolation)
    assert result["outcome"] == "ok", result["error"]
    assert result["result"] == "seven"
    (sample,) = samples(Result(**result))
    assert sample.input_ids == [*server.prompts[0], *map(ord, "seven"), END]
    assert [each.path for each in stub.requests] == [
        "/v1/chat/completions/render",
        "/inference/v1/generate",
        "/v1/chat/completions/derender",
    ]


@pytest.mark.long
def test_a_run_that_requires_it_fails_where_it_cannot_be(project: Project) -> None:
    def without(request: Request) -> Reply:
        return say("7") if request.path == "/v1/chat/completions" else fail(404)

    with LlmStub(without) as stub:
        result = run(project, stub.url, "coroutine")
    assert (result["outcome"], result["error"]["type"]) == ("infra_error", "NoTokenMode")
    assert result["error"]["permanent"] is True


def run(project: Project, url: str, isolation: str) -> dict[str, Any]:
    servers = [{"name": "odd", "command": sys.executable, "args": [ODD]}]
    config = {"model": "openai:m", "base_url": url, "servers": servers}
    document = {"kind": "agent", "spec": {"name": "asks", "type": "llm", "config": config}}
    project.write("llm.yaml", yaml.safe_dump(document))
    project.environ["OPENAI_API_KEY"] = "sk-test-0123456789"
    record = {"tokens": "require", "mode": "tokens"}
    project.collection(
        config="./llm.yaml", isolation=isolation, max_retries=0, breaker=0, record=record
    )
    project.send({"question": "3 and 4?", "task_id": "t"})
    project.burst()
    (result,) = project.results()
    return result

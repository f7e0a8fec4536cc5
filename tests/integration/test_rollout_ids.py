"""Token ids of models' responses are in the Result of a worker."""

from __future__ import annotations

import sys
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.core.result import Result
from agentpipe.rollouts import samples
from tests.integration.llm_bench import ODD
from tests.llm_stub import LlmStub, TokenIds, call, fail, say

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.integration.project import Project
    from tests.llm_stub import Reply, Request

FIRST = TokenIds(
    [1, 2, 3],
    [4, 5, 6],
    [{"version": "7", "start": 0, "end": 2}, {"version": "8", "start": 2, "end": 3}],
)
SECOND = TokenIds([1, 2, 3, 4, 5, 6, 9, 9], [10, 11])


def with_ids(reply: Reply, ids: TokenIds) -> Reply:
    return replace(reply, ids=ids)


def run(
    project: Project,
    replies: Sequence[Reply],
    record: dict[str, Any] | None,
    *,
    isolation: str = "coroutine",
    stream: bool = False,
    retries: int = 0,
    **task: Any,
) -> tuple[dict[str, Any], list[Request]]:
    """Run one task; return its Result, and the model's requests."""
    with LlmStub(replies) as stub:
        config = {"model": "openai:gpt-4.1", "base_url": stub.url, "stream": stream}
        config["servers"] = [{"name": "odd", "command": sys.executable, "args": [ODD]}]
        document = {"kind": "agent", "spec": {"name": "asks", "type": "llm", "config": config}}
        (project.folder / "llm.yaml").write_text(yaml.safe_dump(document))
        more: dict[str, Any] = {} if record is None else {"record": record}
        project.environ["OPENAI_API_KEY"] = "sk-test-0123456789"
        project.collection(
            config="./llm.yaml", isolation=isolation, max_retries=retries, breaker=0, **more
        )
        project.send({"question": "What time is it?", "task_id": "t", **task})
        project.burst("--processes", "1")
    (result,) = project.results()
    return result, stub.requests


@pytest.mark.long
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("isolation", ["coroutine", "process"])
def test_a_run_with_a_tool_is_one_row(project: Project, isolation: str, *, stream: bool) -> None:
    replies = [
        with_ids(call("time__get_current_time", timezone="UTC"), FIRST),
        with_ids(say("It is late."), SECOND),
    ]
    result, requests = run(
        project, replies, {"tokens": "require"}, isolation=isolation, stream=stream
    )
    assert result["outcome"] == "ok", result["error"]
    assert [request.body["return_token_ids"] for request in requests] == [True, True]
    (sample,) = samples(Result(**result))
    assert sample.input_ids == [1, 2, 3, 4, 5, 6, 9, 9, 10, 11]
    assert sample.loss_mask == [0, 0, 0, 1, 1, 1, 0, 0, 1, 1]
    assert sample.logprobs[3:6] == [-0.004, -0.005, -0.006]
    rollout = result["rollout"]
    assert (rollout["exact"], rollout["stop"], rollout["masked"]) == (True, "stop", 0)
    (segment,) = rollout["segments"]
    if not stream:
        assert segment["turns"][0]["versions"] == [[7, 3, 5], [8, 5, 6]]
        assert rollout["versions"] == [7, 8]
    spans = {each["id"]: each["records"][0]["data"]["type"] for each in result["trace"]}
    assert [spans[turn["span"]] for turn in segment["turns"]] == ["llm", "llm"]


@pytest.mark.long
def test_an_answer_that_its_server_gave_up_is_no_turn(project: Project) -> None:
    """Regression: the answer to the next request began a second segment."""
    replies = [
        with_ids(call("time__get_current_time", timezone="UTC"), FIRST),
        with_ids(say("It is", finish="abort"), replace(SECOND, sampled=[7])),
        with_ids(say("It is late."), SECOND),
    ]
    result, requests = run(project, replies, {"tokens": "require"})
    assert (result["outcome"], len(requests)) == ("ok", 3), result["error"]
    (segment,) = result["rollout"]["segments"]
    assert segment["token_ids"] == [1, 2, 3, 4, 5, 6, 9, 9, 10, 11]


@pytest.mark.long
def test_without_record_nothing_is_asked_for(project: Project) -> None:
    result, (request,) = run(project, [say("late")], None)
    assert result["rollout"] is None
    assert "return_token_ids" not in request.body


@pytest.mark.long
def test_a_server_without_ids_leaves_a_gap(project: Project) -> None:
    result, _ = run(project, [say("late")], {"tokens": "try"})
    assert result["outcome"] == "ok"
    assert result["rollout"]["gaps"] == [{"code": "no_token_ids", "turn": 0}]
    assert result["rollout"]["exact"] is False


REFUSED = {"error": {"message": "Unrecognized request argument supplied: return_token_ids"}}


@pytest.mark.long
def test_a_server_that_refuses_is_asked_without(project: Project) -> None:
    result, requests = run(project, [fail(400, REFUSED), say("late")], {"tokens": "try"})
    assert (result["outcome"], result["result"]) == ("ok", "late")
    assert "return_token_ids" not in requests[1].body
    assert result["rollout"]["exact"] is False
    assert result["rollout"]["gaps"] == [{"code": "ids_refused", "turn": 0}]


@pytest.mark.long
@pytest.mark.parametrize("reply", [say("late"), fail(400, REFUSED)])
def test_required_ids_that_do_not_come_are_a_failure_of_the_infrastructure(
    project: Project, reply: Reply
) -> None:
    result, _ = run(project, [reply], {"tokens": "require"})
    assert (result["outcome"], result["reward"]) == ("infra_error", None)
    assert result["error"]["type"] == "NoTokenIds"
    assert result["error"]["permanent"] is True


@pytest.mark.long
def test_a_run_that_reached_a_limit_says_which(project: Project) -> None:
    reply = with_ids(call("time__get_current_time", timezone="UTC"), FIRST)
    replies = [reply] * 25
    result, _ = run(project, replies, {"tokens": "require"})
    assert result["outcome"] == "limit"
    assert result["rollout"]["stop"] == "turns"
    assert result["reward"] is None


@pytest.mark.long
def test_an_answer_that_is_judged_later_keeps_its_ids(project: Project) -> None:
    calls = project.folder / "calls"
    judge = {"func": "toys:judge_in_time", "value": [str(calls), 2]}
    reply = with_ids(say("It is late."), FIRST)
    result, requests = run(project, [reply], {"tokens": "require"}, retries=2, evaluators=[judge])
    assert len(calls.read_text().splitlines()) == 3
    assert (result["outcome"], result["attempt"]) == ("ok", 1)
    assert len(requests) == 1
    assert result["rollout"]["versions"] == [7, 8]


def test_ids_that_an_agent_cannot_give_are_not_required_of_it(project: Project) -> None:
    """A model of another provider, with an agent that only MCP-Universe's code runs."""
    llm = {"name": "its", "type": "mistral", "config": {"model_name": "m"}}
    agent = {"name": "it", "type": "react", "config": {"llm": "its"}}
    documents = [{"kind": "llm", "spec": llm}, {"kind": "agent", "spec": agent}]
    project.write("theirs.yaml", yaml.safe_dump_all(documents))
    project.collection(config="./theirs.yaml", record={"tokens": "require"})
    done = project.run("check", "--json")
    (problem,) = done.json["problems"]
    lines = (project.folder / "collection.yaml").read_text().splitlines()
    assert (done.code, problem["line"]) == (2, 1 + lines.index("  record:"))
    assert "an llm of type 'mistral' gives no token ids" in problem["message"]
    assert project.run("work", "--burst").code == 2

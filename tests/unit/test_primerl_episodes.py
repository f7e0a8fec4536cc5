"""Results as episodes, and rows of a taskset as tasks."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentpipe.core.result import Result
from agentpipe.core.rollout import Rollout
from agentpipe.core.task import Task
from agentpipe.core.token_rows import Turn
from agentpipe.errors import FormatError, TaskError
from agentpipe.primerl.episodes import DELTA, REPLY, answer_of
from agentpipe.primerl.requests import RunRequest, data_of, task_of
from agentpipe.rollouts import samples


def result(*turns: Turn, **fields: Any) -> Result:
    rollout = Rollout(required=True)
    for turn in turns or (Turn([1, 2], [3, 4], [-0.5, -0.25]),):
        rollout.add(turn, engine="vllm", model="m", version=7)
    known = {"reward": 1.0, "reward_trustworthy": True, "rewards": {"style": 0.5}}
    return Result(**{"task_id": "e/t", "rollout": rollout.to_dict("stop"), **known, **fields})


def trace_of(result: Result) -> dict[str, Any]:
    (discard, one), (delta, two), (reply, three) = answer_of(result, "e")
    assert (discard, delta, reply) == (DELTA, DELTA, REPLY)
    assert one == {"trace": "e/t", "discard": True}
    sizes = {name: len(two[name]) for name in ("nodes", "calls")}
    assert three["traces"] == [{"id": "e/t", **sizes}]
    assert (three["success"], three["head"]["ok"]) == (True, True)
    return two


def branches_of(nodes: list[dict[str, Any]]) -> list[list[dict[str, Any]]]:
    """Branches from root to leaf, as verifiers walks them."""
    parents = {node["parent"] for node in nodes}
    branches = []
    for leaf in (number for number in range(len(nodes)) if number not in parents):
        branch = [nodes[leaf]]
        while (parent := branch[0]["parent"]) is not None:
            branch.insert(0, nodes[parent])
        branches.append(branch)
    return branches


ONE = Turn([1, 2], [3, 4], [-0.5, -0.25], finish="tool_calls")
REALIGNED = Turn([1, 2, 3, 9, 5], [6], [-1.0], finish="length")
OVERWRITTEN = Turn([1, 2, 8, 9, 5], [6], [-1.0], finish="stop")
FORKED = Turn([7, 7], [8], [-2.0])


@pytest.mark.parametrize(
    "turns", [(ONE,), (ONE, REALIGNED), (ONE, OVERWRITTEN), (ONE, FORKED), (ONE, REALIGNED, FORKED)]
)
def test_branches_are_the_samples(turns: tuple[Turn, ...]) -> None:
    made = result(*turns)
    trace, rows = trace_of(made), samples(made)
    branches = branches_of(trace["nodes"])
    assert len(branches) == len(rows)
    for branch, row in zip(branches, rows, strict=True):
        assert [each for node in branch for each in node["token_ids"]] == row.input_ids
        assert [each for node in branch for each in node["mask"]] == [
            it == 1 for it in row.loss_mask
        ]
        sampled = [v for v, it in zip(row.logprobs, row.loss_mask, strict=True) if it]
        assert [each for node in branch for each in node["logprobs"]] == sampled
    assert len(trace["calls"]) == len(turns)
    for call in trace["calls"]:
        assert trace["nodes"][call["node"]]["sampled"]
    assert trace["set"]["rewards"] == {"reward": {"score": 1.0, "weight": 1.0}}
    assert trace["set"]["metrics"] == {"style": 0.5}


@pytest.mark.parametrize(
    ("fields", "kind", "said"),
    [
        ({"outcome": "infra_error", "error": {"type": "X", "message": "y"}}, "infra_error", "X: y"),
        ({"outcome": "agent_error", "error": {"type": "X", "message": ""}}, "agent_error", "X"),
        ({"outcome": "limit"}, "limit", "evaluators"),
        ({"reward": 1.0}, "ok", "evaluators"),
        ({"reward_trustworthy": True, "reward": 1.0, "rollout": None}, "ok", "token ids"),
    ],
)
def test_what_does_not_train_is_an_error(fields: dict[str, Any], kind: str, said: str) -> None:
    made = result(**{"reward": None, "reward_trustworthy": False, **fields})
    ((reply, answer),) = answer_of(made, "e")
    assert (reply, answer["success"], answer["traces"]) == (REPLY, True, [])
    (error,) = answer["head"]["errors"]
    assert (answer["head"]["ok"], error["type"]) == (False, kind)
    assert said in error["message"]


def test_a_cancelled_run_is_no_episode() -> None:
    ((reply, answer),) = answer_of(result(outcome="cancelled"), "e")
    assert (reply, answer["success"]) == (REPLY, False)


@pytest.mark.parametrize(
    "data",
    [
        {"idx": 1, "prompt": "q", "evaluators": [{"func": "raw"}], "level": 3},
        {"prompt": [{"role": "user", "content": [{"type": "text", "text": "q"}]}]},
        {"prompt": "q", "system_prompt": "s"},
        {"prompt": "q", "question": "other", "category": "general"},
        {"question": "q", "prompt": None},
    ],
)
def test_a_row_comes_back_whole(data: dict[str, Any]) -> None:
    task = Task.load({**task_of(data), "task_id": "t"})
    assert data_of(task.as_sent(), task.metadata) == data


def test_the_question_is_the_prompt() -> None:
    parts = [{"role": "system", "content": "s"}, {"role": "user", "content": "q"}]
    assert task_of({"prompt": parts})["question"] == "s\n\nq"
    assert task_of({"prompt": "q", "system_prompt": "s"})["question"] == "s\n\nq"
    with pytest.raises(TaskError, match="texts of a system or a user"):
        task_of({"prompt": [{"role": "assistant", "content": "a"}]})
    with pytest.raises(TaskError, match="neither"):
        task_of({"prompt": None})


def test_a_request_becomes_a_task() -> None:
    sampling = {
        "temperature": 0.5,
        "max_completion_tokens": 9,
        "stop": "x",
        "logprobs": True,
        "min_tokens": 0,
        "top_p": None,
        "cache_salt": "12",
    }
    raw = {
        "task_data": {"prompt": "q"},
        "client": {"base_url": "http://a/v1"},
        "model": "m",
        "sampling": sampling,
    }
    request = RunRequest.of(raw, "e/", "t")
    asked = {"temperature": 0.5, "max_tokens": 9, "stop_sequences": ["x"]}
    assert (request.task["task_id"], request.task["sampling"]) == ("e/t", asked)
    assert (request.base_url, request.model, request.version) == ("http://a/v1", "m", 12)
    again = RunRequest.of({**raw, "task_data": {"prompt": "q"}}, "e/", "u")
    assert again.task["group_id"] == request.task["group_id"]
    for other in ({"task_data": {"prompt": "r"}}, {"sampling": {"cache_salt": "13"}}):
        other_request = RunRequest.of({**raw, **other}, "e/", "v")
        assert other_request.task["group_id"] != request.task["group_id"]
    with pytest.raises(TaskError, match="min_tokens: agents have no such setting"):
        RunRequest.of({**raw, "sampling": {"min_tokens": 1}}, "e/", "t")


@pytest.mark.parametrize("raw", [None, [], {}, {"task_data": {}, "client": [], "sampling": {}}])
def test_a_malformed_request_is_told(raw: Any) -> None:
    with pytest.raises(TaskError, match="expected"):
        RunRequest.of(raw, "e/", "t")


@pytest.mark.parametrize(
    "turn", [None, {}, {"at": "x", "versions": []}, {"at": None, "versions": []}]
)
def test_a_rollout_that_others_have_written_is_malformed(turn: Any) -> None:
    made = result()
    assert made.rollout is not None
    segment = {**made.rollout["segments"][0], "turns": [turn]}
    with pytest.raises(FormatError):
        answer_of(replace(made, rollout={**made.rollout, "segments": [segment]}), "e")

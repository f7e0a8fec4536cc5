"""A trainer gets one sample per row of a rollout, and only exact ones."""

from __future__ import annotations

from typing import Any

import pytest

from agentpipe.core.result import Result
from agentpipe.core.rollout import Rollout
from agentpipe.core.token_rows import Turn
from agentpipe.errors import FormatError
from agentpipe.rollouts import samples


def result_of(rollout: Rollout, **more: Any) -> Result:
    return Result(task_id="v1/a/0", group_id="v1/a", rollout=rollout.to_dict("stop"), **more)


def recorded(*turns: Turn | None, **more: Any) -> Rollout:
    rollout = Rollout(**more)
    for each in turns:
        rollout.add(each, engine="vllm", model="m")
    return rollout


def test_a_sample_masks_all_but_what_was_sampled() -> None:
    rollout = recorded(
        Turn([1, 2], [3], [-0.5], finish="tool_calls"),
        Turn([1, 2, 3, 4], [5, 6], [-0.25, -0.125], finish="stop"),
    )
    (sample,) = samples(result_of(rollout, reward=1.0, rewards={"sum": 1.0}, sample_index=0))
    assert sample.input_ids == [1, 2, 3, 4, 5, 6]
    assert sample.loss_mask == [0, 0, 1, 0, 1, 1]
    assert sample.logprobs == [0.0, 0.0, -0.5, 0.0, -0.25, -0.125]
    assert (sample.reward, sample.rewards, sample.stop) == (1.0, {"sum": 1.0}, "stop")
    assert (sample.task_id, sample.group_id, sample.sample_index) == ("v1/a/0", "v1/a", 0)
    assert (sample.segment, sample.segments) == (0, 1)


def test_a_run_that_left_its_row_gives_two_samples() -> None:
    rollout = recorded(Turn([1], [2], [-1.0]), Turn([7, 8], [9], [-2.0]))
    first, second = samples(result_of(rollout))
    assert (first.input_ids, second.input_ids) == ([1, 2], [7, 8, 9])
    assert [(each.segment, each.segments) for each in (first, second)] == [(0, 2), (1, 2)]


def test_versions_are_of_the_engine_or_else_of_the_task() -> None:
    said = Turn([1], [2, 3], [-1.0, -1.0], versions=[(7, 0, 1), (8, 1, 2)])
    rollout = recorded(Turn([1], [9], [-1.0]), said, policy_version=6)
    first, second = samples(result_of(rollout))
    assert (first.versions, second.versions) == ([6, 6], [7, 8])
    assert rollout.to_dict("stop")["versions"] == [6, 8]


def test_what_the_engine_leaves_out_has_the_version_of_its_request() -> None:
    said = Turn([1], [2, 3, 4, 5, 6], [-1.0] * 5, versions=[(8, 3, 4), (7, 1, 3)])
    rollout = recorded(said, policy_version=6).to_dict("stop")
    (turn,) = rollout["segments"][0]["turns"]
    assert turn["versions"] == [(6, 1, 2), (7, 2, 4), (8, 4, 5), (6, 5, 6)]
    assert rollout["versions"] == [6, 8]


def test_names_of_versions_are_in_the_order_of_use() -> None:
    rollout = recorded(Turn([1], [2], [-1.0]), policy_version="step-b")
    assert rollout.to_dict("stop")["versions"] == ["step-b", "step-b"]


def test_a_rollout_with_a_gap_is_not_exact_and_gives_none() -> None:
    rollout = recorded(Turn([1], [2], [-1.0]), None)
    data = rollout.to_dict("stop")
    assert (data["exact"], data["gaps"]) == (False, [{"code": "no_token_ids", "turn": 1}])
    assert samples(result_of(rollout)) == []
    assert len(samples(result_of(rollout), inexact=True)) == 1


def test_a_run_without_a_response_is_not_exact() -> None:
    assert recorded().to_dict("error")["exact"] is False


def test_a_result_without_a_rollout_gives_none() -> None:
    assert samples(Result(task_id="a")) == []


@pytest.mark.parametrize(
    "segment",
    [
        7,
        {},
        {"token_ids": [1, 2], "sampled": [[0, 3]], "logprobs": [-1, -1, -1], "turns": []},
        {"token_ids": [1, 2], "sampled": [[1, 2], [0, 1]], "logprobs": [-1, -1], "turns": []},
        {"token_ids": [1, 2], "sampled": [[0, 2]], "logprobs": [-1], "turns": []},
        {"token_ids": [1, 2], "sampled": "ab", "logprobs": [], "turns": []},
        {"token_ids": [1, 2], "sampled": [[0]], "logprobs": [], "turns": []},
        {"token_ids": [1], "sampled": [], "logprobs": [], "turns": [{}]},
    ],
)
def test_a_forged_rollout_is_refused(segment: Any) -> None:
    rollout = {"exact": True, "segments": [segment]}
    with pytest.raises(FormatError, match=r"rollout\.segments\[0\]"):
        samples(Result(task_id="a", rollout=rollout))

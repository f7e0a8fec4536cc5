"""What the recipes for other trainers make of a run that forked."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from agentpipe.core.result import Result
from agentpipe.core.rollout import Rollout
from agentpipe.core.token_rows import Turn
from agentpipe.rollouts import samples
from docs.examples import trainers


def result(version: Any = 7) -> Result:
    """A result with two turns in one row, and one turn in a second row."""
    rollout = Rollout()
    turns = [
        Turn([1, 2], [3], [-0.5]),
        Turn([1, 2, 3, 9], [4, 5], [-0.25, -1]),
        Turn([8], [6], [-2]),
    ]
    for turn in turns:
        rollout.add(turn, engine="vllm", model="m", version=version)
    return Result(
        task_id="t", group_id="g", sample_index=3, reward=0.5, rollout=rollout.to_dict("stop")
    )


def test_a_row_is_cut_where_the_first_answer_begins() -> None:
    first, second = map(trainers.split, samples(result()))
    assert first == trainers.Split([1, 2], [3, 9, 4, 5], [1, 0, 1, 1], [-0.5, 0.0, -0.25, -1])
    assert second == trainers.Split([8], [6], [1], [-2])


def test_verl_and_slime_get_the_response_with_its_mask() -> None:
    first, _ = samples(result())
    verl = trainers.verl_output(first)
    assert (verl["prompt_ids"], verl["response_ids"]) == ([1, 2], [3, 9, 4, 5])
    assert (verl["response_mask"], verl["reward_score"]) == ([1, 0, 1, 1], 0.5)
    slime = trainers.slime_sample(first, group_index=0, index=3)
    assert (slime["tokens"], slime["response_length"]) == ([1, 2, 3, 9, 4, 5], 4)
    assert len(slime["loss_mask"]) == len(slime["rollout_log_probs"]) == 4
    assert slime["weight_versions"] == ["7", "7"]


def test_skyrl_gets_each_row_as_a_step_of_its_trajectory() -> None:
    given = trainers.skyrl_output(samples(result()), lambda group, index: (group, index))
    assert given["is_last_step"] == [False, True]
    assert given["trajectory_ids"] == [("g", 3)] * 2


def test_areal_gets_a_version_for_each_sampled_token() -> None:
    first, _ = trainers.areal_rows(result())
    assert first["versions"] == [-1, -1, 7, -1, 7, 7]
    assert len({len(first[name]) for name in first if name != "rewards"}) == 1
    for unknown in (None, "step-7"):
        with pytest.raises(ValueError, match="with a policy"):
            trainers.areal_rows(result(unknown))


def test_no_reward_is_not_zero() -> None:
    unjudged = replace(result(), reward=None)
    with pytest.raises(ValueError, match="it is not 0"):
        trainers.verl_output(samples(unjudged)[0])

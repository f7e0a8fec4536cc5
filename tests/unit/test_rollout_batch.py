"""The rows of a batch: those of trainable samples, with their run's advantage."""

from __future__ import annotations

from dataclasses import replace

import pytest

from agentpipe import Result, RolloutBatch, RolloutGroup
from agentpipe.core.rollout import Rollout
from agentpipe.core.token_rows import Turn


def member(name: str, reward: float | None, *turns: Turn) -> Result:
    rollout = Rollout()
    for turn in turns:
        rollout.add(turn, engine="vllm", model="m")
    return Result(
        task_id=name,
        group_id="g",
        reward=reward,
        reward_trustworthy=reward is not None,
        rollout=rollout.to_dict("stop"),
    )


def test_each_segment_of_a_run_has_the_advantage_of_its_run() -> None:
    forked = (Turn([1], [2], [-1.0]), Turn([7, 8], [9], [-2.0]))
    plain = Turn([1], [3], [-0.5])
    results = (member("g/0", 1.0, *forked), member("g/1", None, plain), member("g/2", 0.0, plain))
    batch = RolloutBatch(3, (RolloutGroup("g", results, "complete"),))
    rows = batch.samples()
    assert [(row.task_id, row.segment) for row in rows] == [("g/0", 0), ("g/0", 1), ("g/2", 0)]
    assert batch.advantages("mean") == pytest.approx([0.5, 0.5, -0.5])


def test_a_batch_without_any_row_says_why(caplog: pytest.LogCaptureFixture) -> None:
    bare = tuple(replace(member(f"g/{at}", at), rollout=None) for at in (0.0, 1.0))
    assert RolloutBatch(3, (RolloutGroup("g", bare, "complete"),)).samples() == []
    assert "batch 3 has no row to train on" in caplog.text
    assert "record: {tokens: require}" in caplog.text


def test_a_forged_result_without_a_reward_is_no_zero() -> None:
    forged = replace(member("g/0", 1.0, Turn([1], [2], [-1.0])), reward=None)
    other = member("g/1", 1.0, Turn([1], [2], [-1.0]))
    assert RolloutGroup("g", (forged, other), "complete").goods == [other]

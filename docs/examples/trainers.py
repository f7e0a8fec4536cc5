"""Samples of agentpipe in the forms that verl, slime, SkyRL and AReaL train on.

Each function makes plain values, which a trainer's own class, or ``torch.tensor``, takes as they
are. A sample is one row of token ids. A run that forked has several, and all have its reward.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.rollouts import Sample, samples

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from agentpipe.core.result import Result


@dataclass(frozen=True)
class Split:
    """A row cut where the model's first answer begins; the other lists are of the response."""

    prompt: list[int]
    response: list[int]
    mask: list[int]
    logprobs: list[float]


def split(sample: Sample) -> Split:
    """Cut a row. Trainers call all that follows the first prompt the response, masked or not.

    Raises:
        ValueError: The model has sampled none of it.
    """
    at = sample.loss_mask.index(1)
    ids, mask, logprobs = sample.input_ids, sample.loss_mask, sample.logprobs
    return Split(ids[:at], ids[at:], mask[at:], logprobs[at:])


def verl_output(sample: Sample) -> dict[str, Any]:
    """For ``AgentLoopOutput(**verl_output(sample), metrics=AgentLoopMetrics())``."""
    row = split(sample)
    return {
        "prompt_ids": row.prompt,
        "response_ids": row.response,
        "response_mask": row.mask,
        "response_logprobs": row.logprobs,
        "reward_score": _reward(sample),
        "extra_fields": {"task_id": sample.task_id, "group_id": sample.group_id},
    }


def slime_sample(sample: Sample, *, group_index: int, index: int) -> dict[str, Any]:
    """For ``Sample(**slime_sample(...), status=Sample.Status.COMPLETED)``.

    A run that ended by ``length`` is ``TRUNCATED`` there.
    """
    row = split(sample)
    return {
        "group_index": group_index,
        "index": index,
        "tokens": sample.input_ids,
        "response_length": len(row.response),
        "reward": _reward(sample),
        "loss_mask": row.mask,
        "weight_versions": [str(version) for version in sample.versions],
        "rollout_log_probs": row.logprobs,
        "metadata": {"task_id": sample.task_id, "stop": sample.stop},
    }


def skyrl_output(
    batch: Sequence[Sample], trajectory_id: Callable[[str, int], Any]
) -> dict[str, Any]:
    """A ``GeneratorOutput`` of samples in the order of their runs; give it ``TrajectoryID``.

    Runs with several rows need ``generator.step_wise_trajectories=true``.
    """
    rows = [split(sample) for sample in batch]
    ids = [(sample.group_id or sample.task_id, sample.sample_index or 0) for sample in batch]
    return {
        "prompt_token_ids": [row.prompt for row in rows],
        "response_ids": [row.response for row in rows],
        "rewards": [_reward(sample) for sample in batch],
        "loss_masks": [row.mask for row in rows],
        "stop_reasons": [sample.stop for sample in batch],
        "rollout_metrics": None,
        "rollout_logprobs": [row.logprobs for row in rows],
        "trajectory_ids": [trajectory_id(*each) for each in ids],
        "trajectory_generation_times": None,
        "rollout_expert_indices": None,
        "is_last_step": [sample.segment == sample.segments - 1 for sample in batch],
        "env_metrics": None,
        "pixel_values": None,
        "image_grid_thw": None,
    }


def areal_rows(result: Result) -> list[dict[str, Any]]:
    """What ``arun_episode`` returns of a run, a row each: ``torch.tensor([value])`` of each value.

    Raises:
        ValueError: The policy version that sampled a token is not known as a number.
    """
    rollout = result.rollout or {}
    rows = []
    for sample in samples(result):
        turns = rollout["segments"][sample.segment]["turns"]
        versions = [-1] * len(sample.input_ids)
        for version, start, end in (each for turn in turns for each in turn["versions"]):
            versions[start:end] = [version] * (end - start)
        if not all(_is_known(*each) for each in zip(versions, sample.loss_mask, strict=True)):
            raise ValueError(f"{sample.task_id}: run it with a policy, whose versions are numbers")
        rows.append(_areal_row(sample, versions))
    return rows


def _areal_row(sample: Sample, versions: list[int]) -> dict[str, Any]:
    return {
        "input_ids": sample.input_ids,
        "logprobs": sample.logprobs,
        "loss_mask": sample.loss_mask,
        "versions": versions,
        "rewards": _reward(sample),
        "attention_mask": [True] * len(sample.input_ids),
    }


def _is_known(version: object, sampled: int) -> bool:
    return not sampled or (isinstance(version, int) and version >= 0)


def _reward(sample: Sample) -> float:
    """None is not a reward: the run could not be judged.

    Raises:
        ValueError: It is None.
    """
    if sample.reward is None:
        raise ValueError(f"{sample.task_id} has no reward: leave it out, it is not 0")
    return sample.reward

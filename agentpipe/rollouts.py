"""Rollouts for a trainer: one sample per row of token ids in a Result."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any

from agentpipe.core.rollout import ends
from agentpipe.errors import FormatError

if TYPE_CHECKING:
    from agentpipe.core.result import Result


@dataclass(frozen=True, slots=True)
class Sample:
    """One row to train on.

    Attributes:
        segment: Index of this row among the run's ``segments``, from 0.
        input_ids: Prompt, sampled ids, further context, sampled ids, and so on.
        loss_mask: 1 for each id that the model sampled, else 0.
        logprobs: From the engine that sampled the id; 0.0 where the mask is 0.
        versions: Oldest and newest policy version that sampled the row; empty if unknown.
        reward: None if no evaluator could judge the answer. Never treat None as 0.
        stop: Why the run ended: stop, length, turns, tokens, time, cancelled or error.
    """

    task_id: str
    group_id: str | None
    sample_index: int | None
    segment: int
    segments: int
    input_ids: list[int]
    loss_mask: list[int]
    logprobs: list[float]
    versions: list[str | int]
    reward: float | None
    rewards: dict[str, float]
    stop: str
    metadata: dict[str, Any] = field(default_factory=dict)


def samples(result: Result, *, inexact: bool = False) -> list[Sample]:
    """Return the samples of a Result; empty if it has no rollout, or if token ids are missing.

    With ``inexact``, rollouts with gaps are included: their rows hold the responses that have ids.

    Raises:
        FormatError: The rollout is malformed.
    """
    rollout = result.rollout
    if rollout is None or not (inexact or rollout.get("exact") is True):
        return []
    segments = rollout.get("segments")
    if not isinstance(segments, list):
        raise FormatError("rollout.segments: expected a list")
    rows = [_row(segment, number) for number, segment in enumerate(segments)]
    return [
        Sample(
            task_id=result.task_id,
            group_id=result.group_id,
            sample_index=result.sample_index,
            segment=number,
            segments=len(rows),
            **row,
            reward=result.reward,
            rewards=result.rewards,
            stop=str(rollout.get("stop")),
            metadata=result.metadata,
        )
        for number, row in enumerate(rows)
    ]


def _row(segment: Any, number: int) -> dict[str, Any]:
    try:
        ids, ranges = segment["token_ids"], segment["sampled"]
        mask, logprobs = _spread(len(ids), ranges, segment["logprobs"])
        used = [each[0] for turn in segment["turns"] for each in turn["versions"]]
    except (TypeError, KeyError, ValueError, IndexError) as error:
        raise FormatError(f"rollout.segments[{number}]: malformed: {error}") from error
    return {
        "input_ids": ids,
        "loss_mask": mask,
        "logprobs": logprobs,
        "versions": ends(used),
    }


def _spread(
    size: int, ranges: list[tuple[int, int]], logprobs: list[float]
) -> tuple[list[int], list[float]]:
    """The mask and the logprobs, one entry for each id."""
    mask, spread, taken = [0] * size, [0.0] * size, 0
    edges = [0, *(edge for each in ranges for edge in each), size]
    if any(first > second for first, second in pairwise(edges)):
        raise ValueError("sampled: its ranges are not in order")
    for start, end in ranges:
        mask[start:end] = [1] * (end - start)
        spread[start:end] = logprobs[taken : taken + end - start]
        taken += end - start
    if taken != len(logprobs):
        raise ValueError(f"{taken} sampled ids, {len(logprobs)} logprobs")
    return mask, spread

"""Rows of a ``GRPOTrainer``: one per run, or one that teaches nothing."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

    from agentpipe.rollouts import Sample


@dataclass(frozen=True, slots=True)
class GrpoRow:
    """One row of a step; TRL takes its fields as columns."""

    task_id: str
    prompt_ids: list[int]
    completion_ids: list[int]
    logprobs: list[float]
    env_mask: list[int]
    reward: float | None


def row_of(found: Sequence[Sample], pad: int) -> GrpoRow:
    """The run's segment with the most sampled ids, because TRL takes one row per run."""
    best = max(found, key=lambda it: sum(it.loss_mask))
    if 1 not in best.loss_mask:
        return masked_row(best.task_id, best.input_ids or [pad], best.reward, pad)
    start = best.loss_mask.index(1)
    end = len(best.loss_mask) - best.loss_mask[::-1].index(1)
    return GrpoRow(
        best.task_id,
        best.input_ids[:start] or [pad],
        best.input_ids[start:end],
        best.logprobs[start:end],
        best.loss_mask[start:end],
        best.reward,
    )


def masked_row(task_id: str, prompt: list[int], reward: float | None, pad: int) -> GrpoRow:
    """A row that teaches nothing; TRL wants at least one id per completion."""
    return GrpoRow(task_id, prompt, [pad], [0.0], [0], reward)

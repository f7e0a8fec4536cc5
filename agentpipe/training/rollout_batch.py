"""RolloutBatch: the groups of one training step, and their rows as samples or tensors."""

from __future__ import annotations

import logging
import operator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agentpipe.core.arguments import refused
from agentpipe.core.distribution import needs_extra

if TYPE_CHECKING:
    from agentpipe.rollouts import Sample
    from agentpipe.training.rollout_group import Kind, RolloutGroup

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """The groups for one training step.

    Attributes:
        step: The number of this step, from 0; continues after ``load_state_dict``.
        groups: As many as requested; fewer only in the last batch.
    """

    step: int
    groups: tuple[RolloutGroup, ...]

    def samples(self) -> list[Sample]:
        """The token id rows of all groups' good members, in the order of the groups."""
        found = [sample for group in self.groups for sample in group.samples()]
        if not found and self.groups:
            log.warning(
                "batch %d has no row to train on: no run of it has exact token ids. A collection "
                "with record: {tokens: require} makes such runs an infra_error",
                self.step,
            )
        return found

    def advantages(self, kind: Kind = "grpo") -> list[float]:
        """One advantage per row of ``samples``; all segments of a run get the run's advantage."""
        return [
            of_run[sample.task_id]
            for group in self.groups
            for of_run in [_by_task(group, kind)]
            for sample in group.samples()
        ]

    def tensors(self, *, pad_id: int, kind: Kind = "grpo") -> dict[str, Any]:
        """The rows as torch tensors, padded on the right to the longest.

        Returns:
            ``input_ids``, ``attention_mask`` and ``loss_mask`` (int64), ``old_logprobs``
            (float32), each of shape (rows, longest), and ``advantages`` (float32) of shape (rows,).

        Raises:
            ConfigError: ``pad_id`` is not a token id.
            MissingExtra: torch is not installed.
        """
        pad_id = _token_id(pad_id)
        with needs_extra("tensors need torch", "torch", "torch"):
            import torch
        rows = self.samples()
        longest = max((len(row.input_ids) for row in rows), default=0)
        columns: dict[str, tuple[list[list[float]], float, Any]] = {
            "input_ids": ([[*row.input_ids] for row in rows], pad_id, torch.int64),
            "attention_mask": ([[1] * len(row.input_ids) for row in rows], 0, torch.int64),
            "loss_mask": ([[*row.loss_mask] for row in rows], 0, torch.int64),
            "old_logprobs": ([row.logprobs for row in rows], 0.0, torch.float32),
        }
        found = {
            name: torch.tensor(
                [[*row, *[fill] * (longest - len(row))] for row in values], dtype=dtype
            ).reshape(len(rows), longest)
            for name, (values, fill, dtype) in columns.items()
        }
        found["advantages"] = torch.tensor(self.advantages(kind), dtype=torch.float32)
        return found


def _token_id(given: Any) -> int:
    """The pad's id as an integer; NumPy's integers count, a bool and a float do not."""
    text = "a token id: of a tokenizer without a pad token, give its eos_token_id"
    try:
        number = operator.index(given)
    except TypeError as error:
        raise refused("pad_id", text, given) from error
    if isinstance(given, bool):
        raise refused("pad_id", text, given)
    return number


def _by_task(group: RolloutGroup, kind: Kind) -> dict[str, float]:
    ids = [result.task_id for result in group.goods]
    return dict(zip(ids, group.advantages(kind), strict=True))

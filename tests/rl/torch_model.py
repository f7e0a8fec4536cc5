"""The model in torch: log-probabilities of token ids, with any of its weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoModelForCausalLM

if TYPE_CHECKING:
    from pathlib import Path

torch.set_num_threads(1)  # Like vLLM.


def model_of(weights: Path) -> Any:
    return AutoModelForCausalLM.from_pretrained(weights, dtype=torch.float32).eval()


def logprobs_of(model: Any, ids: list[int]) -> list[float]:
    """The log-probability of each id after the previous ones; 0 for the first."""
    row = torch.tensor([ids])
    with torch.no_grad():
        logprobs = model(row).logits.log_softmax(-1)[0, :-1]
    found: list[float] = logprobs.gather(1, row[0, 1:, None])[:, 0].tolist()
    return [0.0, *found]

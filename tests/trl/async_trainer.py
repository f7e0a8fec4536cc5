"""Trains with TRL's AsyncGRPOTrainer: ``tests.trl.async_trainer FOLDER STEPS``.

It writes a line of JSON per step: the step's rows, and the groups of rows not trained yet.
To run on a CPU, it replaces two parts of TRL: the probe of the accelerator's speed, and the
FlashAttention 3 kernel, a download for GPUs, for which PyTorch's attention is used.
"""

from __future__ import annotations

import json
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from torch.nn import functional
from transformers import TrainerCallback
from trl.experimental.async_grpo import (
    AsyncGRPOConfig,
    AsyncGRPOTrainer,
    async_grpo_trainer,
    packing,
)

from agentpipe import Settings
from agentpipe.trl import AsyncGrpoRollouts
from tests.trl.served import model, tokenizer

GROUPS, SAMPLES, ROWS = 40, 4, 8


class Attention:
    """PyTorch's attention with the kernel's interface."""

    @staticmethod
    def flash_attn_varlen_func(*given: Any, softmax_scale: float | None, **_: Any) -> torch.Tensor:
        query, key, value, ends, key_ends = given[:5]
        found = []
        for (start, end), (first, last) in zip(pairwise(ends), pairwise(key_ends), strict=True):
            parts = ((query, start, end), (key, first, last), (value, first, last))
            one, other, values = (it[a:b].transpose(0, 1)[None] for it, a, b in parts)
            size, held = one.shape[2], other.shape[2]
            mask = torch.ones(size, held, dtype=torch.bool).tril(held - size)
            seen = functional.scaled_dot_product_attention(
                one, other, values, attn_mask=mask, scale=softmax_scale, enable_gqa=True
            )
            found.append(seen[0].transpose(0, 1))
        return torch.cat(found)


class Sent:
    """A weight transfer that only counts."""

    sent = 0

    def nothing(self) -> None:
        """Do nothing: there is no server with weights."""

    init_weight_transfer = pause = resume = destroy = nothing

    def send_weights(self, weights: Any) -> None:
        self.sent += sum(1 for _ in weights) > 0


class Says(TrainerCallback):  # type: ignore[misc,unused-ignore]
    """Writes the rows that each step has trained."""

    def __init__(self, rollouts: AsyncGrpoRollouts, file: Path) -> None:
        self.file, self.taken, self.trained = file, list[dict[str, Any]](), 0
        self._rollouts, self._get = rollouts, rollouts.rollout_buffer.get
        rollouts.rollout_buffer.get = self.get  # type: ignore[method-assign]

    def get(self, *given: Any, **named: Any) -> Any:
        row = self._get(*given, **named)
        said = {name: getattr(row, name) for name in ("group_id", "advantage", "model_version")}
        ids = {
            name: getattr(row, name).tolist()
            for name in ("input_ids", "completion_mask", "old_log_probs")
        }
        self.taken.append({**said, **ids, "at": self._rollouts.rollout_buffer.version})
        return row

    def on_step_end(self, _args: Any, state: Any, *_: Any, **__: Any) -> None:
        self.trained += ROWS
        rows, rest = self.taken[self.trained - ROWS : self.trained], self.taken[self.trained :]
        line = {"step": state.global_step, "rows": rows, "rest": [it["group_id"] for it in rest]}
        with self.file.open("a") as file:
            file.write(json.dumps(line) + "\n")


def prompts() -> list[dict[str, Any]]:
    judges = [{"func": "raw", "op": "=", "value": "yes"}]
    return [{"question": f"q{number}", "evaluators": judges} for number in range(GROUPS)]


def arguments(folder: Path, steps: int) -> AsyncGRPOConfig:
    quiet = {"report_to": [], "logging_steps": 1, "disable_tqdm": True}
    sizes = {"per_device_train_batch_size": ROWS, "num_generations": SAMPLES, "token_budget": -1}
    return AsyncGRPOConfig(
        output_dir=str(folder / "out"),
        max_steps=steps,
        save_steps=2,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        **quiet,
        **sizes,
    )


def train(folder: Path, steps: int, checkpoint: str = "") -> None:
    async_grpo_trainer.get_peak_flops_per_device = lambda *_: None
    packing._flash_attn = lambda: Attention  # noqa: SLF001 - TRL has no option for it
    urls = [f"sqlite:///{folder / name}.db" for name in ("broker", "results")]
    settings = Settings(broker=urls[0], sink=urls[1])
    model().save_pretrained(folder / "model")
    with AsyncGrpoRollouts.open(
        folder / "collection.yaml",
        prompts(),
        n=SAMPLES,
        batch=ROWS // SAMPLES,
        settings=settings,
        keep=lambda _: True,
    ) as rollouts:
        if checkpoint:
            rollouts.load(checkpoint)
        trainer = AsyncGRPOTrainer(
            str(folder / "model"),
            args=arguments(folder, steps),
            train_dataset=Dataset.from_list([{"prompt": "unused"}]),
            processing_class=tokenizer(),
            rollout_worker=rollouts,
            weight_transfer=rollouts.transfer(Sent()),
        )
        trainer.add_callback(Says(rollouts, folder / "steps.jsonl"))
        trainer.add_callback(rollouts.callback())
        trainer.train(resume_from_checkpoint=checkpoint or None)
        said = {"version": rollouts.policy.version, "trainer": trainer.model_version}
        logs = trainer.state.log_history
        (folder / "end.json").write_text(json.dumps({**said, "logs": logs, "paused": False}))


if __name__ == "__main__":
    train(Path(sys.argv[1]), int(sys.argv[2]), *sys.argv[3:])

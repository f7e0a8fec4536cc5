"""A trainer of a real model: one policy gradient step per batch, then new weights for vLLM.

Usage: python -m tests.rl.real_trainer FOLDER SERVER [POINT]. It waits at POINT to be killed.
"""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import torch

from agentpipe import Rollouts
from tests.rl.project_files import RlProject
from tests.rl.torch_model import model_of
from tests.rl.vllm_server import MODEL, load_weights

if TYPE_CHECKING:
    from agentpipe import RolloutBatch

STEPS, BATCH, SAMPLES, STALENESS = 5, 2, 4, 1
JUDGED = [{"func": "raw", "op": "=", "value": "even"}]
SUBJECTS = (
    "rain, apples, a train, snow, my cat, a river, the moon, bread, chess, a lamp, summer, shoes, "
    "the sea, a king, salt, a garden, music, a clock, honey, birds, a letter, the wind, paper, "
    "a bridge, glass, a horse, milk, fire"
)
# Steps of equal length: weights of all versions differ, and a few steps do not ruin them.
LENGTH = 0.1
# Only the last layers are trained, which keeps backpropagation short.
LAYERS = 6


def prompts() -> list[dict[str, Any]]:
    sampling = {"temperature": 1.0, "max_tokens": 10}
    return [
        {
            "question": f"Write a sentence about {subject}.",
            "evaluators": JUDGED,
            "sampling": sampling,
        }
        for subject in SUBJECTS.split(", ")
    ]


def weights_of(folder: Path, version: int) -> Path:
    return folder / f"weights-{version}" if version else MODEL


@dataclass(frozen=True, slots=True)
class Event:
    """What the trainer has just done: a line in its journal.

    Attributes:
        at: ``began``, ``used``, ``loaded``, ``published``, ``saved`` or ``ended``.
        version: Version of the trainer's weights.
        policy_version: Version of the policy.
        groups: Ids of the batch's groups.
        gain: How much more the update favours answers better than their group's mean.
    """

    at: str
    step: int
    version: int
    policy_version: int
    groups: tuple[str, ...] = ()
    gain: float = 0.0

    @classmethod
    def read(cls, line: str) -> Self:
        record = json.loads(line)
        return cls(**{**record, "groups": tuple(record["groups"])})


class Journal:
    """Appends events; the process waits forever at one of them."""

    def __init__(self, folder: Path, stops_at: str) -> None:
        self._path, self._stops_at = folder / "trainer.jsonl", stops_at

    def write(self, event: Event) -> None:
        with self._path.open("a") as file:
            file.write(f"{json.dumps(asdict(event))}\n")
        while f"{event.at} {event.step}" == self._stops_at:
            signal.pause()


def train(model: Any, batch: RolloutBatch) -> float:
    """Train one step; return the gain (see ``Event``)."""
    rows = batch.tensors(pad_id=0)
    mask, advantages = rows["loss_mask"][:, 1:], rows["advantages"][:, None]
    logprobs = logprobs_of(model, rows)
    ratio = (logprobs - rows["old_logprobs"][:, 1:]).exp()
    trained = [it for layer in model.model.layers[-LAYERS:] for it in layer.parameters()]
    gradients = torch.autograd.grad((ratio * advantages * mask).sum(), trained)
    norm = torch.stack([it.norm() for it in gradients]).norm()
    with torch.no_grad():
        for parameter, gradient in zip(trained, gradients, strict=True):
            parameter.add_(gradient, alpha=LENGTH / float(norm))
        gained = (logprobs_of(model, rows) - logprobs) * advantages * mask
    return float(gained.sum())


def logprobs_of(model: Any, rows: dict[str, Any]) -> torch.Tensor:
    logits = model(rows["input_ids"], attention_mask=rows["attention_mask"]).logits[:, :-1]
    return logits.log_softmax(-1).gather(2, rows["input_ids"][:, 1:, None])[..., 0]


def main() -> None:
    folder, server, stops_at = Path(sys.argv[1]), sys.argv[2], " ".join(sys.argv[3:])
    journal, checkpoint = Journal(folder, stops_at), folder / "checkpoint.json"
    settings = RlProject(folder, "").settings
    used: list[str] = []
    with Rollouts.open(
        folder / "collection.yaml",
        prompts(),
        n=SAMPLES,
        batch=BATCH,
        name="loop",
        settings=settings,
        timeout_s=1_800,
    ) as rollouts:
        policy, version = rollouts.policy, 0
        assert policy is not None
        if checkpoint.exists():
            saved = json.loads(checkpoint.read_text())
            used, version = saved["used"], saved["version"]
            # The previous trainer can have been killed anywhere: the server's weights are unknown.
            policy.pause(drain_s=None)
            load_weights(server, weights_of(folder, version))
            rollouts.load_state_dict(saved["state"])
            policy.resume()
        model = model_of(weights_of(folder, version)).requires_grad_(False)
        model.model.layers[-LAYERS:].requires_grad_(True)
        journal.write(Event("began", rollouts.step, version, policy.version))
        for batch in rollouts:
            step, ids = batch.step, tuple(it.group_id for it in batch.groups)
            journal.write(Event("used", step, version, policy.version, ids))
            gain, version = train(model, batch), step + 1
            model.save_pretrained(weights_of(folder, version))
            with policy.update(version, drain_s=None):
                load_weights(server, weights_of(folder, version))
                journal.write(Event("loaded", step, version, policy.version, ids, gain))
            journal.write(Event("published", step, version, policy.version, ids, gain))
            used += ids
            saved = {"state": rollouts.state_dict(), "used": used, "version": version}
            checkpoint.with_suffix(".new").write_text(json.dumps(saved))
            checkpoint.with_suffix(".new").replace(checkpoint)
            journal.write(Event("saved", step, version, policy.version, ids, gain))
            if rollouts.step == STEPS:
                break
        journal.write(Event("ended", rollouts.step, version, policy.version))


if __name__ == "__main__":
    main()

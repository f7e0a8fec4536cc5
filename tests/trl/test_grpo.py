"""TRL's GRPOTrainer on agents' rollouts, with real workers and a server of token ids.

Run by `make test-trl`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Dataset
from trl import GRPOConfig, GRPOTrainer

from agentpipe import ConfigError, ResultTimeout, Settings
from agentpipe.brokers import open_store
from agentpipe.trl import GrpoRollouts, agent_reward
from tests.llm_stub import LlmStub
from tests.trl.served import FILES, PAD, Engine, model, tokenizer

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.llm_stub import Request

SAMPLES, STEPS = 4, 3
COLLECTION = {"name": "twice", "number": 2, "max_retries": 0, "breaker": 0}


class SeenTrainer(GRPOTrainer):  # type: ignore[misc,unused-ignore]
    """The trainer, which stores each batch that it computes a loss for."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        seen = self.__dict__.setdefault("seen", [])
        seen.append({name: it for name, it in inputs.items() if isinstance(it, torch.Tensor)})
        return super().compute_loss(model, inputs, *args, **options)


@dataclass
class Place:
    """A project with running workers, and the rollouts that its trainer has taken."""

    folder: Path
    engine: Engine
    settings: Settings
    rows: list[dict[str, list[Any]]] = field(default_factory=list)
    workers: subprocess.Popen[bytes] | None = None

    def open(self, **options: Any) -> GrpoRollouts:
        options = {"settings": self.settings, "timeout_s": 60, **options}
        return GrpoRollouts.open(self.folder / "collection.yaml", task_of, **options)

    def train(self, rollouts: GrpoRollouts, steps: int = STEPS, **options: Any) -> SeenTrainer:
        def kept(prompts: list[Any], trainer: Any) -> dict[str, list[Any]]:
            self.rows.append(rollouts(prompts, trainer))
            return self.rows[-1]

        trainer = SeenTrainer(
            model=model(),
            reward_funcs=agent_reward,
            args=arguments(self.folder, steps),
            train_dataset=Dataset.from_list([{"prompt": f"q{number}"} for number in range(8)]),
            processing_class=tokenizer(),
            rollout_func=kept,
        )
        trainer.train(**options)
        return trainer


def task_of(prompt: str) -> dict[str, Any]:
    return {"question": prompt, "evaluators": [{"func": "raw", "op": "=", "value": "yes"}]}


def arguments(folder: Path, steps: int) -> GRPOConfig:
    quiet = {"report_to": [], "logging_steps": 1, "disable_tqdm": True}
    sizes = {"per_device_train_batch_size": 2 * SAMPLES, "num_generations": SAMPLES}
    return GRPOConfig(
        output_dir=str(folder / "out"),
        max_steps=steps,
        save_steps=1,
        learning_rate=1e-2,
        use_cpu=True,
        bf16=False,
        **quiet,
        **sizes,
    )


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    engine = Engine()
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("broker", "results")]
    settings = Settings(broker=urls[0], sink=urls[1])
    with LlmStub(engine) as stub:
        for name, content in FILES.items():
            (tmp_path / name).write_text(content)
        env = f'{{OPENAI_API_KEY: "sk-0123456789abcdef", OPENAI_BASE_URL: "{stub.url}"}}'
        spec = "".join(f"  {key}: {value}\n" for key, value in COLLECTION.items())
        more = (
            f"  config: ./agent.yaml\n  record: {{tokens: require}}\n  context: [{{env: {env}}}]\n"
        )
        (tmp_path / "collection.yaml").write_text(f"kind: collection\nspec:\n{spec}{more}")
        found = Place(tmp_path, engine, settings)
        command = [sys.executable, "-m", "agentpipe", "work", "--processes", "2"]
        command += ["-c", "collection.yaml", "--broker", urls[0], "--sink", urls[1]]
        with (tmp_path / "work.log").open("wb") as log:
            environ = {**os.environ, "AGENTPIPE_LEASE_S": "5"}
            workers = subprocess.Popen(command, cwd=tmp_path, env=environ, stderr=log, stdout=log)
        found.workers = workers
        yield found
        workers.send_signal(signal.SIGTERM)
        workers.wait(60)


def unpadded(row: torch.Tensor, mask: torch.Tensor) -> list[Any]:
    found: list[Any] = row[mask.bool()].tolist()
    return found


def assert_trained_on_what_was_served(place: Place, trainer: SeenTrainer) -> None:
    """Each row of each loss is one that the engine served, with its mask and logprobs."""
    served = {tuple(it[0] + it[1]): it for it in map(place.engine.row, judged(place))}
    for batch in trainer.seen:
        for number in range(2 * SAMPLES):
            prompt = unpadded(batch["prompt_ids"][number], batch["prompt_mask"][number])
            whole = batch["completion_mask"][number]
            completion = unpadded(batch["completion_ids"][number], whole)
            mask = unpadded(batch["tool_mask"][number], whole)
            if not any(mask):
                assert batch["advantages"][number] == 0
                continue
            wanted = served[tuple(prompt + completion)]
            assert (prompt, completion, mask) == wanted[:3]


def judged(place: Place) -> list[str]:
    """The ids of tasks whose rows have a reward."""
    return [
        task_id
        for rows in place.rows
        for task_id, reward in zip(rows["agent_task_id"], rows["agent_reward"], strict=True)
        if reward is not None
    ]


def assert_rows_are_as_served(place: Place) -> None:
    for rows in place.rows:
        columns = ("prompt_ids", "completion_ids", "env_mask", "logprobs", "agent_reward")
        for row in range(2 * SAMPLES):
            found = [rows[name][row] for name in columns]
            if found[4] is not None:
                wanted = place.engine.row(rows["agent_task_id"][row])
                assert tuple(found[:3]) == wanted[:3]
                assert found[3] == pytest.approx(wanted[3], abs=1e-6)
                assert found[4] == wanted[4]


def test_the_trainer_gets_what_was_sampled_over_a_killed_worker(place: Place) -> None:
    killed: list[int] = []

    def kill(_: Request) -> None:
        if len(place.engine.turns) > 3 * SAMPLES and not killed:
            with closing(open_store(place.settings)) as store:
                killed.append(store.stats().workers[0].pid)
            os.kill(killed[0], signal.SIGKILL)

    place.engine.on_request = kill
    with place.open() as rollouts:
        trainer = place.train(rollouts)
    assert killed
    assert rollouts.counts == {"good": STEPS * 2 * SAMPLES}
    assert trainer.state.global_step == STEPS
    assert set(Counter(judged(place)).values()) == {1}
    assert_rows_are_as_served(place)
    assert_trained_on_what_was_served(place, trainer)
    first = trainer.state.log_history[0]
    assert first["grad_norm"] > 0
    rewards = place.rows[0]["agent_reward"]
    assert first["reward"] == pytest.approx(sum(rewards) / len(rewards))


def test_a_failed_run_is_repaired_or_masked_and_never_scored(place: Place) -> None:
    place.engine.fails = {f"q{number}": "always" if number % 2 else "once" for number in range(8)}
    with place.open(repairs=1) as rollouts:
        trainer = place.train(rollouts, steps=4)
    assert rollouts.counts == {"good": 4 * 8 - 4, "masked": 4}
    repaired = [task_id for task_id in judged(place) if task_id.endswith("~1")]
    assert len(repaired) == 4
    masked = [
        (rows["completion_ids"][row], rows["env_mask"][row])
        for rows in place.rows
        for row, reward in enumerate(rows["agent_reward"])
        if reward is None
    ]
    assert masked == [([PAD], [0])] * 4
    assert_rows_are_as_served(place)
    assert_trained_on_what_was_served(place, trainer)
    for rows, said in zip(place.rows, trainer.state.log_history, strict=False):
        good = [reward for reward in rows["agent_reward"] if reward is not None]
        assert said["reward"] == pytest.approx(sum(good) / len(good))


def test_groups_of_which_all_fail_teach_nothing(place: Place) -> None:
    place.engine.fails = {f"q{number}": "all" for number in range(8)}
    with place.open(repairs=0) as rollouts:
        trainer = place.train(rollouts, steps=1)
    assert rollouts.counts == {"masked": 2 * SAMPLES}
    start = model().state_dict()
    assert all(torch.equal(it, start[name]) for name, it in trainer.model.state_dict().items())


def test_a_trainer_that_goes_on_from_its_checkpoint_pays_for_nothing_twice(place: Place) -> None:
    with place.open() as rollouts:
        place.train(rollouts)
    before, asked = place.rows[2], len(place.engine.turns)
    place.rows.clear()
    with place.open() as rollouts:
        place.train(rollouts, resume_from_checkpoint=str(place.folder / "out" / "checkpoint-2"))
    assert place.rows == [before]
    assert len(place.engine.turns) == asked


def test_what_is_wrong_is_told(place: Place) -> None:
    assert place.workers is not None
    place.workers.send_signal(signal.SIGTERM)
    place.workers.wait(60)
    with place.open(timeout_s=0.2) as rollouts, pytest.raises(ResultTimeout, match="in time"):
        place.train(rollouts)
    with pytest.raises(ConfigError, match="invalid name"):
        place.open(name="../x")
    collection = place.folder / "collection.yaml"
    collection.write_text(collection.read_text().replace("require", "try"))
    with pytest.raises(ConfigError, match="tokens: require"):
        place.open()

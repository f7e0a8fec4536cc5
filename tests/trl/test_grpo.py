"""TRL's own GRPOTrainer on agents' rollouts: real workers, a server that gives token ids; run by
`make test-trl`.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections import Counter
from contextlib import closing
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import pytest
import torch
from datasets import Dataset
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast
from trl import GRPOConfig, GRPOTrainer

from agentpipe import ConfigError, ResultTimeout, Settings
from agentpipe.brokers import open_store
from agentpipe.trl import GrpoRollouts, agent_reward
from tests.llm_stub import LlmStub, Reply, TokenIds, fail, say

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.llm_stub import Request

VOCABULARY, PAD, END, SAMPLES, STEPS = 64, 0, 1, 4, 3
# It asks twice: what stands between the answers is context. Its runs name their sample.
AGENT = """
import json, urllib.request

def ask(env, messages):
    request = urllib.request.Request(
        env["OPENAI_BASE_URL"] + "/chat/completions",
        json.dumps({"model": "m", "messages": messages}).encode(),
        {"Content-Type": "application/json", "Authorization": "Bearer " + env["OPENAI_API_KEY"]})
    with urllib.request.urlopen(request, timeout=60) as response:
        return json.load(response)["choices"][0]["message"]

class Twice:
    def execute(self, task, context):
        first = {"role": "user", "content": f"{task.question} {task.sample_index} {task.task_id}"}
        said = ask(context.env, [first])
        more = {"role": "user", "content": "sure?"}
        return ask(context.env, [first, said, more])["content"]
"""
FILES = {
    "mine.py": AGENT,
    "agent.yaml": 'kind: agent\nspec: {name: twice, type: python, config: {class: "mine:Twice"}}\n',
}
COLLECTION = {"name": "twice", "number": 2, "max_retries": 0, "breaker": 0}


@dataclass
class Engine:
    """Samples at random, and knows what it sampled for each task.

    Attributes:
        fails: Questions whose service fails: ``all``; or for the first sample ``always``, or
            ``once``: not for its repair.
        turns: By task: the prompt and the sampled ids of each turn.
    """

    fails: dict[str, str] = field(default_factory=dict)
    turns: dict[str, list[TokenIds]] = field(default_factory=dict)
    on_request: Any = None
    random: torch.Generator = field(default_factory=lambda: torch.Generator().manual_seed(5))
    lock: threading.Lock = field(default_factory=threading.Lock)

    def __call__(self, request: Request) -> Reply:
        if self.on_request:
            self.on_request(request)
        question, index, task_id = request.question.split()
        how = self.fails.get(question)
        if how == "all":
            return fail(500)
        if index == "0" and (how == "always" or (how == "once" and "~" not in task_id)):
            return fail(500)
        with self.lock:
            is_first = len(request.body["messages"]) == 1
            known = [] if is_first else self.turns[task_id]
            held = [] if is_first else [*known[0].prompt, *known[0].sampled]
            said = 2 + int(index) + 4 * (self._some(1)[0] % 8)  # Odd where it is odd.
            ids = TokenIds([*held, *self._some(3)], [said, *self._some(4), END])
            self.turns[task_id] = [*known, ids]
        return say("yes" if ids.sampled[0] % 2 else "no", ids=ids)

    def _some(self, number: int) -> list[int]:
        some: list[int] = torch.randint(2, VOCABULARY, (number,), generator=self.random).tolist()
        return some

    def row(self, task_id: str) -> tuple[list[int], list[int], list[int], list[float], float]:
        """Prompt, completion, mask, logprobs and reward of a task, as it was served."""
        one, two = self.turns[task_id]
        between = two.prompt[len(one.prompt) + len(one.sampled) :]
        completion = [*one.sampled, *between, *two.sampled]
        mask = [1] * len(one.sampled) + [0] * len(between) + [1] * len(two.sampled)
        ids = zip(completion, mask, strict=True)
        logprobs = [one.logprob(each) if sampled else 0.0 for each, sampled in ids]
        return one.prompt, completion, mask, logprobs, float(two.sampled[0] % 2)


class SeenTrainer(GRPOTrainer):  # type: ignore[misc,unused-ignore]
    """The trainer, which keeps the batches of its loss."""

    def compute_loss(self, model: Any, inputs: Any, *args: Any, **options: Any) -> Any:
        seen = self.__dict__.setdefault("seen", [])
        seen.append({name: it for name, it in inputs.items() if isinstance(it, torch.Tensor)})
        return super().compute_loss(model, inputs, *args, **options)


@dataclass
class Place:
    """A project, with workers that run, and the rollouts that its trainer has taken."""

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


def tokenizer() -> PreTrainedTokenizerFast:
    words = {f"w{number}": number for number in range(VOCABULARY)}
    own = Tokenizer(WordLevel(words, unk_token="w2"))
    return PreTrainedTokenizerFast(tokenizer_object=own, pad_token="w0", eos_token="w1")


def model() -> LlamaForCausalLM:
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "eos_token_id": END}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, pad_token_id=PAD, **sizes, **heads))


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
    """The tasks whose rows have a reward."""
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

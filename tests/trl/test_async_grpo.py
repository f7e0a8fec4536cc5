"""TRL's AsyncGRPOTrainer on agents' rollouts, with a policy; run by `make test-trl`."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe import ConfigError, GroupStream, Settings
from agentpipe.trl import AsyncGrpoRollouts
from tests.llm_stub import LlmStub
from tests.support import wait_until
from tests.trl.async_trainer import ROWS, SAMPLES
from tests.trl.served import FILES, Engine

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
STALE = 2
COLLECTION = f"""
kind: policy
spec: {{name: main, endpoints: ["URL"], batch: {ROWS // SAMPLES}, max_staleness: {STALE}}}
---
kind: collection
spec:
  name: twice
  config: ./agent.yaml
  number: 2
  concurrency: 4
  max_retries: 0
  breaker: 0
  policy: main
  record: {{tokens: require}}
"""


@dataclass
class Place:
    """A project with running workers."""

    folder: Path
    engine: Engine
    settings: Settings

    @property
    def steps(self) -> list[dict[str, Any]]:
        """The steps that the trainers reported."""
        file = self.folder / "steps.jsonl"
        text = file.read_text() if file.exists() else ""
        return [json.loads(line) for line in text[: text.rfind("\n") + 1].splitlines()]

    @contextmanager
    def trainer(self, steps: int, checkpoint: str = "") -> Iterator[subprocess.Popen[bytes]]:
        command = [sys.executable, "-m", "tests.trl.async_trainer", str(self.folder), str(steps)]
        command += [checkpoint] if checkpoint else []
        with (self.folder / "train.log").open("ab") as log:
            process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, env=environ())
            try:
                yield process
            finally:
                process.kill()
                process.wait()

    def train(self, steps: int, checkpoint: str = "") -> dict[str, Any]:
        with self.trainer(steps, checkpoint) as process:
            assert process.wait(300) == 0, (self.folder / "train.log").read_text()[-4000:]
        end: dict[str, Any] = json.loads((self.folder / "end.json").read_text())
        return end


def environ() -> dict[str, str]:
    own = {"AGENTPIPE_LEASE_S": "5", "TRL_EXPERIMENTAL_SILENCE": "1", "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **own, "ACCELERATE_USE_CPU": "1", "CUDA_VISIBLE_DEVICES": ""}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Place]:
    engine = Engine()
    urls = [f"sqlite:///{tmp_path / name}.db" for name in ("broker", "results")]
    with LlmStub(engine) as stub:
        for name, content in FILES.items():
            (tmp_path / name).write_text(content)
        (tmp_path / "collection.yaml").write_text(COLLECTION.replace("URL", stub.url))
        command = [sys.executable, "-m", "agentpipe", "work", "--processes", "2"]
        command += ["-c", "collection.yaml", "--broker", urls[0], "--sink", urls[1]]
        with (tmp_path / "work.log").open("wb") as log:
            workers = subprocess.Popen(command, cwd=tmp_path, env=environ(), stderr=log, stdout=log)
        yield Place(tmp_path, engine, Settings(broker=urls[0], sink=urls[1]))
        workers.send_signal(signal.SIGTERM)
        workers.wait(60)


def assert_rows_are_as_served(place: Place, rows: list[dict[str, Any]]) -> None:
    """Check the rows' ids, mask and log-probabilities, and the advantage within their group."""
    served = {}
    for task_id in place.engine.turns:
        prompt, completion, mask, logprobs, _ = place.engine.row(task_id)
        served[tuple(prompt + completion)] = (
            len(prompt) * [0] + mask,
            len(prompt) * [0.0] + logprobs,
        )
    for row in rows:
        mask, logprobs = served[tuple(row["input_ids"])]
        assert row["completion_mask"] == mask
        assert row["old_log_probs"] == pytest.approx(logprobs, abs=1e-6)
        # Below 0: sampled after the checkpoint, by weights lost in a kill.
        assert row["at"] - row["model_version"] <= STALE


def test_the_trainer_gets_whole_groups_with_the_versions_that_sampled_them(place: Place) -> None:
    end = place.train(5)
    rows = [row for step in place.steps for row in step["rows"]]
    assert len(rows) == 5 * ROWS
    assert set(Counter(row["group_id"] for row in rows).values()) == {SAMPLES}
    assert_rows_are_as_served(place, rows)
    with GroupStream.open(
        place.settings, group="test", start="beginning", timeout_s=1, keep=lambda _: True
    ) as stream:
        wanted = {int(it.group_id.rpartition("/")[2]): it.advantages() for it in stream}
    for group in {row["group_id"] for row in rows}:
        found = [row["advantage"] for row in rows if row["group_id"] == group]
        assert sorted(found) == pytest.approx(sorted(wanted[group]))
    # The initial weights, and those of each step.
    assert end["version"] == end["trainer"] == 6
    assert max(row["model_version"] for row in rows) > 1
    first = end["logs"][0]
    assert first["agentpipe/complete_total"] >= 1
    assert 0 <= first["reward"] <= 1
    assert any(log.get("grad_norm", 0) > 0 for log in end["logs"])


def test_a_killed_trainer_goes_on_from_its_checkpoint_and_uses_each_group_once(
    place: Place,
) -> None:
    checkpoint = place.folder / "out" / "checkpoint-4"
    with place.trainer(9) as process:
        wait_until(lambda: len(place.steps) >= 5 and checkpoint.exists(), 300, "step 5")
        process.kill()
    before = place.steps
    end = place.train(9, str(checkpoint))
    after = place.steps[len(before) :]
    # Steps after the checkpoint are lost with their weights, so they count as not trained.
    lasting = [*before[:4], *after]
    assert [step["step"] for step in lasting] == list(range(1, 10))
    rows = [row for step in lasting for row in step["rows"]]
    counts = Counter(row["group_id"] for row in rows)
    assert set(counts.values()) == {SAMPLES}
    assert len(counts) == 9 * ROWS // SAMPLES
    assert_rows_are_as_served(place, rows)
    assert set(map(len, place.engine.turns.values())) == {2}
    # Only groups dropped as too old are missing: the weights of later steps are lost.
    missing = set(range(max(counts) + 1)) - counts.keys() - set(after[-1]["rest"])
    names = ("agentpipe/stale_total", "agentpipe/old_total")
    assert len(missing) <= sum(log.get(name, 0) for log in end["logs"] for name in names)


def test_a_collection_without_versions_is_refused(place: Place) -> None:
    collection = place.folder / "collection.yaml"
    collection.write_text(collection.read_text().replace("  policy: main\n", ""))
    with pytest.raises(ConfigError, match="policy: NAME"):
        AsyncGrpoRollouts.open(collection, [], n=2, batch=1, settings=place.settings)

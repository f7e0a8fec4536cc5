"""Results and rollouts as Hugging Face datasets; run by `make test-torch`."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from datasets import Dataset, IterableDataset

from agentpipe.archive import Archive
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.training.prompt_source import PromptSource
from docs.examples.huggingface import (
    archived_samples,
    result_row,
    sample_features,
    streamed_samples,
)
from tests.torch.groups import names, publish_groups, rollout_of

if TYPE_CHECKING:
    from pathlib import Path

GROUPS = [f"first/{name}" for name in names(6)]
SEGMENTS = ("0:0", "1:0", "1:1", "2:0")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    """Settings of a sink with two results without a reward first, then answers of each kind."""
    settings = Settings(sink=f"sqlite:///{tmp_path / 'results.db'}?synchronous=normal")
    unjudged = [
        Result(
            task_id="first/unjudged",
            run="first",
            outcome="eval_error",
            rollout=rollout_of(0).to_dict("stop"),
        ),
        Result(task_id="first/nested", run="first", result={"sum": [4]}, metadata={"k": 1}),
    ]
    sink = open_sink(settings)
    sink.publish([Record(it.task_id, it.encode(Redactor(()))) for it in unjudged])
    sink.close()
    publish_groups(settings, *GROUPS)
    return settings


def named(rows: Any) -> list[str]:
    return sorted(f"{row['task_id']}:{row['segment']}" for row in rows)


ALL = sorted(f"{group}/{segment}" for group in GROUPS for segment in SEGMENTS)


def test_rows_of_token_ids_are_a_dataset_and_come_back_from_parquet(
    settings: Settings, tmp_path: Path
) -> None:
    rows = list(archived_samples(settings, "first"))
    made = Dataset.from_list(rows, features=sample_features())
    assert named(made) == ALL
    made.to_parquet(str(tmp_path / "samples.parquet"))
    found = Dataset.from_parquet(
        str(tmp_path / "samples.parquet"), cache_dir=str(tmp_path / "cache"), keep_in_memory=True
    )
    assert found.to_list() == made.to_list()
    forked = next(row for row in found if row["task_id"] == f"{GROUPS[0]}/1" and row["segment"])
    assert (forked["input_ids"], forked["loss_mask"], forked["reward"]) == ([7, 8, 9], [0, 0, 1], 1)
    assert (forked["logprobs"], forked["versions"]) == ([0.0, 0.0, -2.0], ["7", "7"])


def test_results_of_any_answers_are_a_dataset(settings: Settings) -> None:
    with Archive.open(settings) as archive:
        made = Dataset.from_list([result_row(result) for result in archive.results(run="first")])
    found = {row["task_id"]: row for row in made}
    assert len(found) == 2 + 3 * len(GROUPS)
    assert json.loads(found["first/nested"]["result"]) == {"sum": [4]}
    assert json.loads(found["first/nested"]["metadata"]) == {"k": 1}
    assert (found["first/unjudged"]["reward"], found[f"{GROUPS[0]}/2"]["reward"]) == (None, 2.0)


@pytest.mark.parametrize("given", [0, 1, 9, 25])
def test_the_stream_is_an_iterable_dataset_that_goes_on_after_its_state(
    settings: Settings, given: int
) -> None:
    def made() -> Any:
        options = {"settings": settings, "timeout_s": 0.2}
        return IterableDataset.from_generator(
            streamed_samples, gen_kwargs=options, features=sample_features()
        )

    first = made()
    rows = iter(first)
    before = [next(rows) for _ in range(given)]
    state = json.loads(json.dumps(first.state_dict()))
    rows.close()
    second = made()
    second.load_state_dict(state)
    assert named([*before, *second]) == sorted([*ALL, "first/unjudged:0"])


def test_prompts_of_a_shuffle_buffer_are_passed_over_by_their_number() -> None:
    """They are skipped by count, as documented: the dataset's state omits those in the buffer."""

    def made() -> PromptSource:
        rows = IterableDataset.from_generator(numbers).shuffle(seed=5, buffer_size=10)
        return PromptSource(iter(rows))

    first = made()
    before = taken(first, 7)
    second = made()
    second.load_state_dict(json.loads(json.dumps(first.state_dict())))
    assert sorted(before + taken(second, 40)) == [*range(40)]
    assert before != sorted(before)


def numbers() -> Any:
    yield from ({"number": number} for number in range(40))


def taken(source: PromptSource, most: int) -> list[int]:
    found = list[int]()
    while len(found) < most and source.has_next():
        found.append(source.task()["number"])
        source.take()
    return found

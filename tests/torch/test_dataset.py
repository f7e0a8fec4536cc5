"""The stream as a PyTorch dataset, mostly on the embedded sink; run by `make test-torch`."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson
import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from agentpipe.core.result import Result
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.training.dataset import AgentStreamingDataset
from tests.torch.restarts import kill_at_random, used_over_a_restart

if TYPE_CHECKING:
    from brokers.server_kafka import KafkaServer

TRAINER = Path(__file__).with_name("trainer.py")


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(sink=f"sqlite:///{tmp_path}/results.db?synchronous=normal")


def publish(settings: Settings, *ids: str, **fields: Any) -> list[str]:
    sink = open_sink(settings)
    results = [Result(task_id=each, result=f"answer {each}", **fields) for each in ids]
    sink.publish([Record(each.task_id, orjson.dumps(each.to_dict())) for each in results])
    sink.close()
    return list(ids)


def numbered(number: int) -> list[str]:
    return [f"t-{index}" for index in range(number)]


def dataset(settings: Settings, **options: Any) -> AgentStreamingDataset:
    return AgentStreamingDataset(settings=settings, **{"timeout_s": 0.2, **options})


def ids_of(items: Any) -> list[str]:
    return [item["task_id"] for item in items]


def one_by_one(batch: list[Any]) -> list[Any]:
    return batch


def task_id(item: dict[str, Any]) -> str:
    return str(item["task_id"])


def test_items_have_what_mcp_universes_have_and_more(settings: Settings) -> None:
    publish(settings, "a", metadata={"k": 1})
    (item,) = dataset(settings)
    assert item["result"] == "answer a"
    assert (item["evaluation_results"], item["trace"], item["metadata"]) == ([], [], {"k": 1})
    assert item["outcome"] == "ok"


def test_an_epoch_ends_at_the_limit_and_the_next_goes_on(settings: Settings) -> None:
    publish(settings, *numbered(7))
    limited = dataset(settings, limit=3)
    epochs = [ids_of(limited) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [3, 3, 1]
    assert sorted(each for epoch in epochs for each in epoch) == numbered(7)


@pytest.mark.parametrize("share", ["group", "hash"])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_loader_workers_share_the_stream(settings: Settings, workers: int, share: Any) -> None:
    publish(settings, *numbered(60))
    loader: Any = DataLoader(
        dataset(settings, transform=task_id, share=share),
        batch_size=4,
        num_workers=workers,
        collate_fn=one_by_one,
    )
    found = [each for batch in loader for each in batch]
    assert sorted(found) == sorted(numbered(60))
    assert list(dataset(settings, share="group")) == [] or share == "hash"


@pytest.mark.parametrize("workers", [2, 3])
def test_loader_workers_share_a_topic_while_its_partitions_move(
    kafka_server: KafkaServer, workers: int
) -> None:
    """The second worker joins after the first started, and takes half of its partitions."""
    topic = f"test-{uuid.uuid4().hex[:8]}"
    settings = Settings(sink=f"{kafka_server.url}/{topic}?partitions=4")
    publish(settings, *numbered(24))
    loader: Any = DataLoader(
        dataset(settings, transform=task_id, timeout_s=5),
        batch_size=2,
        num_workers=workers,
        collate_fn=one_by_one,
    )
    found = []
    for batch in loader:
        found += batch
        time.sleep(0.5)  # Stands for a training step.
    assert sorted(found) == sorted(numbered(24))


def test_a_limit_is_for_all_workers_together(settings: Settings) -> None:
    publish(settings, *numbered(60))
    limited = dataset(settings, transform=task_id, limit=20, share="hash")
    loader: Any = DataLoader(limited, batch_size=None, num_workers=3)
    assert len(set(loader)) == 20


@pytest.mark.parametrize("share", ["group", "hash"])
def test_ranks_share_the_stream(
    settings: Settings, monkeypatch: pytest.MonkeyPatch, share: Any
) -> None:
    publish(settings, *numbered(40))
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        found += ids_of(dataset(settings, share=share, limit=40))
    assert len(found) == len(set(found))
    assert len(found) == 40


def test_with_hash_the_samples_of_a_group_stay_together(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for group in range(10):
        publish(settings, *(f"g{group}-{n}" for n in range(4)), group_id=f"g{group}")
    monkeypatch.setenv("WORLD_SIZE", "2")
    seen: dict[str, set[int]] = {}
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        for item in dataset(settings, share="hash"):
            seen.setdefault(item["group_id"], set()).add(rank)
    assert len(seen) == 10
    assert all(len(ranks) == 1 for ranks in seen.values())


def test_a_dataset_can_be_pickled(settings: Settings) -> None:
    publish(settings, *numbered(3))
    copy = pickle.loads(pickle.dumps(dataset(settings)))
    assert len(list(copy)) == 3


def test_a_transform_that_fails_names_the_task(settings: Settings) -> None:
    publish(settings, "a")
    with pytest.raises(AgentpipeError, match="task a"):
        list(dataset(settings, transform=lambda item: item["no such key"]))


@pytest.mark.parametrize(
    "options", [{"limit": 0}, {"lag": -1}, {"keep_states": 0}, {"share": "both"}]
)
def test_wrong_options_are_told(settings: Settings, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        dataset(settings, **options)


# States.


def test_a_state_that_is_loaded_gives_what_was_not_used_and_nothing_else(
    settings: Settings,
) -> None:
    publish(settings, *numbered(30))
    first = dataset(settings)
    items = iter(first)
    before = ids_of(next(items) for _ in range(10))
    state = json.loads(json.dumps(first.state_dict()))
    ids_of(next(items) for _ in range(7))  # Used after the state was saved, so lost.
    items.close()  # type: ignore[attr-defined]
    second = dataset(settings)
    second.load_state_dict(state)
    assert sorted(before + ids_of(second)) == sorted(numbered(30))


def test_one_may_go_back_to_any_of_the_states_that_are_kept(settings: Settings) -> None:
    publish(settings, *numbered(40))
    first = dataset(settings, keep_states=3)
    items = iter(first)
    states, used = [], []
    for _ in range(6):
        used += ids_of(next(items) for _ in range(5))
        states.append((first.state_dict(), list(used)))
    items.close()  # type: ignore[attr-defined]
    state, before = states[-3]
    second = dataset(settings)
    second.load_state_dict(state)
    assert sorted(before + ids_of(second)) == sorted(numbered(40))


def test_a_state_grows_no_further_than_what_is_kept(settings: Settings) -> None:
    publish(settings, *numbered(200))
    kept = dataset(settings, keep_states=2)
    sizes = []
    for number, _ in enumerate(kept):
        if number % 10 == 9:
            sizes.append(len(kept.state_dict()["used"]))
    assert max(sizes) <= 30


def test_epochs_go_on_behind_each_other_with_states_too(settings: Settings) -> None:
    publish(settings, *numbered(9))
    limited = dataset(settings, limit=3)
    found = []
    for _ in range(4):
        found += ids_of(limited)
        limited.state_dict()
    assert sorted(found) == numbered(9)


def test_the_states_of_all_ranks_may_be_loaded_into_each(settings: Settings) -> None:
    publish(settings, *numbered(300))
    ranks = [dataset(settings), dataset(settings)]
    readers = [iter(rank) for rank in ranks]
    used = ids_of(next(reader) for _ in range(5) for reader in readers)
    states = [rank.state_dict() for rank in ranks]
    for reader in readers:
        reader.close()  # type: ignore[attr-defined]
    again = dataset(settings)
    again.load_state_dict(*states)
    assert sorted(used + ids_of(again)) == sorted(numbered(300))


def test_a_stateful_loaders_workers_go_on_each_behind_its_own_state(settings: Settings) -> None:
    publish(settings, *numbered(100))

    def loader() -> Any:
        mine = dataset(settings, transform=task_id, share="hash")
        return StatefulDataLoader(mine, batch_size=4, num_workers=2, collate_fn=one_by_one)

    assert sorted(used_over_a_restart(loader, batches=7)) == sorted(numbered(100))


@pytest.mark.parametrize("state", [{"version": 1, "group": "other", "used": []}, None])
def test_what_is_no_state_of_the_group_is_refused(settings: Settings, state: Any) -> None:
    with pytest.raises(ConfigError, match="not a state of the group"):
        dataset(settings).load_state_dict(state)


def test_a_trainer_killed_at_random_uses_each_result_once_by_its_checkpoints(
    settings: Settings, tmp_path: Path
) -> None:
    """The state is saved with the trained weights; later training is lost with the process."""
    # Many more than the steps: on a busy machine a trainer gets ahead of the kill.
    publish(settings, *numbered(1_500))
    checkpoint = tmp_path / "checkpoint.json"
    progress = tmp_path / "progress"
    environ = {**os.environ, "AGENTPIPE_SINK": settings.sink, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(TRAINER), str(checkpoint), str(progress), "results"]
    dice, steps = random.Random(7), range(10, 50)
    kill_at_random(command, environ, progress, dice, steps, times=5, patience_s=60)
    subprocess.run([*command, "to the end"], env=environ, check=True)
    learnt = Counter(json.loads(checkpoint.read_text())["learnt"])
    assert set(learnt) == set(numbered(1_500))
    assert set(learnt.values()) == {1}

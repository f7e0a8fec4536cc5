"""Whole groups, and rows of token ids, as a PyTorch dataset; run by `make test-torch`."""

from __future__ import annotations

import json
import os
import pickle
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from torch.utils.data import DataLoader
from torchdata.stateful_dataloader import StatefulDataLoader

from agentpipe.core.result import Result
from agentpipe.errors import AgentpipeError, ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.training.dataset import AgentStreamingDataset
from tests.support import processes_with, wait_until
from tests.torch.groups import ROWS, SIZE, names, publish_groups
from tests.torch.restarts import kill_at_random, used_over_a_restart

if TYPE_CHECKING:
    from agentpipe.training.rollout_group import RolloutGroup

TRAINER = Path(__file__).with_name("trainer.py")
ALL = [f"{group}/{index}" for group in names(40) for index in range(SIZE)]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(sink=f"sqlite:///{tmp_path}/results.db?synchronous=normal")


def dataset(settings: Settings, **options: Any) -> AgentStreamingDataset:
    return AgentStreamingDataset(settings=settings, **{"timeout_s": 0.2, **options})


def of_groups(settings: Settings, **options: Any) -> AgentStreamingDataset:
    return dataset(settings, groups=True, **options)


def name_of(group: RolloutGroup) -> str:
    return group.group_id


def row_name(row: dict[str, Any]) -> str:
    return f"{row['task_id']}:{row['segment']}"


def one_by_one(batch: list[Any]) -> list[Any]:
    return batch


def rows_of(groups: list[str]) -> list[str]:
    segments = ((0, 0), (1, 0), (1, 1), (2, 0))
    return sorted(f"{group}/{index}:{segment}" for group in groups for index, segment in segments)


# Items.


def test_an_item_is_a_group_or_the_rows_of_one_or_a_row(settings: Settings) -> None:
    publish_groups(settings, "g")
    (group,) = of_groups(settings, group="a")
    assert (group.group_id, group.rewards, group.versions) == ("g", [0.0, 1.0, 2.0], (7, 7))
    (rows,) = of_groups(settings, group="b", rollouts=True)
    assert [(row["task_id"], row["segment"], row["segments"]) for row in rows] == [
        ("g/0", 0, 1),
        ("g/1", 0, 2),
        ("g/1", 1, 2),
        ("g/2", 0, 1),
    ]
    assert [round(row["advantage"], 2) for row in rows] == [-1.0, 0.0, 0.0, 1.0]
    alone = list(dataset(settings, group="c", rollouts=True))
    assert sorted(map(row_name, alone)) == rows_of(["g"])
    first = next(row for row in alone if row_name(row) == "g/1:1")
    assert (first["input_ids"], first["loss_mask"]) == ([7, 8, 9], [0, 0, 1])
    assert (first["logprobs"], first["versions"]) == ([0.0, 0.0, -2.0], [7, 7])
    assert "advantage" not in first


def test_flat_groups_are_left_out_unless_one_wants_them(settings: Settings) -> None:
    publish_groups(settings, "flat", flat=True)
    publish_groups(settings, "varied")
    assert [*map(name_of, of_groups(settings, group="a"))] == ["varied"]
    every = of_groups(settings, group="b", keep=lambda _: True)
    assert sorted(map(name_of, every)) == ["flat", "varied"]


def test_results_without_token_ids_give_no_rows_and_that_is_said_once(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    sink = open_sink(settings)
    bare = [Result(task_id=f"bare-{number}") for number in range(3)]
    sink.publish([Record(it.task_id, json.dumps(it.to_dict()).encode()) for it in bare])
    sink.close()
    publish_groups(settings, "g")
    assert sorted(map(row_name, dataset(settings, rollouts=True))) == rows_of(["g"])
    assert caplog.text.count("gives no rows") == 1
    assert "task bare-0 has no exact token ids" in caplog.text


def test_wrong_options_and_failing_transforms_are_told(settings: Settings) -> None:
    with pytest.raises(ConfigError, match="parts of a group"):
        of_groups(settings, share="group")
    with pytest.raises(ConfigError, match="max_staleness is of groups: it needs groups=True"):
        dataset(settings, max_staleness=1)
    with pytest.raises(ConfigError, match="policy"):
        list(of_groups(settings, policy="none"))
    publish_groups(settings, "g")
    with pytest.raises(AgentpipeError, match="transform failed on group g: "):
        list(of_groups(settings, transform=lambda group: group["no such key"]))


# Shared by ranks and workers.


@pytest.mark.parametrize("rollouts", [False, True])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_loader_workers_share_the_groups(settings: Settings, workers: int, rollouts: Any) -> None:
    publish_groups(settings, *names(30))
    mine = of_groups(settings, rollouts=rollouts)
    loader: Any = DataLoader(mine, batch_size=4, num_workers=workers, collate_fn=one_by_one)
    found = [each for batch in loader for each in batch]
    if rollouts:
        assert all(len(rows) == ROWS for rows in found)
        assert sorted(row_name(row) for rows in found for row in rows) == rows_of(names(30))
    else:
        assert sorted(map(name_of, found)) == names(30)
    again: Any = DataLoader(mine, batch_size=4, num_workers=workers, collate_fn=one_by_one)
    assert list(again) == []


def test_ranks_with_workers_share_the_groups(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    publish_groups(settings, *names(40))
    monkeypatch.setenv("WORLD_SIZE", "2")
    found = []
    for rank in range(2):
        monkeypatch.setenv("RANK", str(rank))
        mine = of_groups(settings, transform=name_of)
        found += list(DataLoader(mine, batch_size=None, num_workers=2))
    assert sorted(found) == names(40)


def test_an_epoch_ends_at_its_limit_and_the_next_goes_on(settings: Settings) -> None:
    """This holds even if groups used in the first epoch follow an unused one in the stream."""
    publish_groups(settings, *names(25))
    limited = of_groups(settings, limit=10, transform=name_of, keep_states=2)
    epochs = [list(limited) for _ in range(3)]
    assert [len(epoch) for epoch in epochs] == [10, 10, 5]
    assert sorted(each for epoch in epochs for each in epoch) == names(25)


def test_workers_that_live_on_go_on_in_the_next_epoch(settings: Settings) -> None:
    publish_groups(settings, *names(30))
    limited = of_groups(settings, limit=12, transform=name_of)
    loader: Any = DataLoader(limited, batch_size=None, num_workers=2, persistent_workers=True)
    found = [each for _ in range(4) for each in loader]
    assert sorted(found) == names(30)


def test_a_dataset_of_groups_can_be_pickled_before_it_reads(settings: Settings) -> None:
    publish_groups(settings, "g")
    (found,) = pickle.loads(pickle.dumps(of_groups(settings, transform=name_of)))
    assert found == "g"


def test_what_a_loader_may_have_fetched_ahead_comes_again_after_a_kill(settings: Settings) -> None:
    publish_groups(settings, *names(20))
    items = iter(of_groups(settings, transform=name_of, lag=6))
    taken = [next(items) for _ in range(12)]
    items.close()  # type: ignore[attr-defined]
    again = list(of_groups(settings, transform=name_of))
    # No group was requested after the twelfth, so it is not used yet; six more can be queued.
    assert {*taken[-7:]} <= {*again}
    assert {*names(20)} == {*taken, *again}


# States.


@pytest.mark.parametrize("rollouts", [False, True])
def test_a_state_of_groups_gives_what_was_not_used(settings: Settings, rollouts: Any) -> None:
    publish_groups(settings, *names(30))
    options = {"rollouts": rollouts, "transform": group_in if rollouts else name_of}
    first = of_groups(settings, **options)
    items = iter(first)
    before = [next(items) for _ in range(10)]
    state = json.loads(json.dumps(first.state_dict()))
    for _ in range(7):  # Used after the state was saved, so lost.
        next(items)
    items.close()  # type: ignore[attr-defined]
    second = of_groups(settings, **options)
    second.load_state_dict(state)
    assert sorted(before + list(second)) == names(30)


def group_in(rows: list[dict[str, Any]]) -> str:
    return str(rows[0]["group_id"])


@pytest.mark.parametrize("taken", range(1, 2 * ROWS + 1))
def test_a_state_within_a_run_gives_the_rest_of_its_rows(settings: Settings, taken: int) -> None:
    publish_groups(settings, *names(3))
    first = dataset(settings, rollouts=True)
    items = iter(first)
    before = [row_name(next(items)) for _ in range(taken)]
    state = json.loads(json.dumps(first.state_dict()))
    items.close()  # type: ignore[attr-defined]
    second = dataset(settings, rollouts=True)
    second.load_state_dict(state)
    assert second.state_dict() == state  # Even before it has read anything.
    assert sorted([*before, *map(row_name, second)]) == rows_of(names(3))


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("kind", ["groups", "rows", "rows of groups"])
def test_a_stateful_loader_is_exact(settings: Settings, workers: int, kind: str) -> None:
    publish_groups(settings, *names(40))
    transform: Any = {"groups": name_of, "rows": row_name, "rows of groups": group_in}[kind]
    options = {"groups": "groups" in kind, "rollouts": "rows" in kind, "share": "hash"}

    def loader() -> Any:
        mine = dataset(settings, transform=transform, **options)
        return StatefulDataLoader(mine, batch_size=3, num_workers=workers, collate_fn=one_by_one)

    used = used_over_a_restart(loader, batches=5)
    assert sorted(used) == (rows_of(names(40)) if kind == "rows" else names(40))


def test_a_state_of_another_reader_is_refused(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = of_groups(settings).state_dict()
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ConfigError, match="not a state of the group 'trainer-0-of-2'"):
        of_groups(settings).load_state_dict(state)


@pytest.mark.parametrize("kind", ["groups", "loader"])
def test_ranks_killed_at_random_use_each_group_once_by_their_checkpoints(
    settings: Settings, tmp_path: Path, kind: str
) -> None:
    publish_groups(settings, *names(200))
    learnt = Counter[str]()
    for rank in range(2):
        files = [tmp_path / f"checkpoint-{rank}.json", tmp_path / f"progress-{rank}"]
        environ = {**os.environ, "AGENTPIPE_SINK": settings.sink, "PYTHONPATH": str(Path.cwd())}
        environ |= {"RANK": str(rank), "WORLD_SIZE": "2"}
        command = [sys.executable, str(TRAINER), *map(str, files), kind]
        dice, steps = random.Random(rank), range(5, 25)
        times = 3 - 2 * rank
        kill_at_random(command, environ, files[1], dice, steps, times=times, patience_s=120)
        subprocess.run([*command, "to the end"], env=environ, check=True, timeout=240)
        learnt.update(json.loads(files[0].read_text())["learnt"])
    assert sorted(learnt) == names(200)
    assert set(learnt.values()) == {1}


def test_a_loaders_workers_end_with_their_trainer(settings: Settings, tmp_path: Path) -> None:
    """This includes workers that wait for a group: they would hold what the next start needs."""
    publish_groups(settings, *names(12))
    files = [tmp_path / "checkpoint.json", tmp_path / "progress"]
    files[1].touch()
    environ = {**os.environ, "AGENTPIPE_SINK": settings.sink, "PYTHONPATH": str(Path.cwd())}
    command = [sys.executable, str(TRAINER), *map(str, files), "loader"]
    trainer = subprocess.Popen(command, env=environ)
    wait_until(lambda: files[1].stat().st_size >= 4, 120, "it trains")
    assert len(processes_with(str(tmp_path))) == 3  # With two workers, which are forks.
    trainer.kill()
    trainer.wait()
    wait_until(lambda: not processes_with(str(tmp_path)), 5, "its workers have ended")

"""A trainer's wrong arguments are refused before anything is sent, each by its name."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe import ConfigError, GroupStream, Rollouts, Settings
from agentpipe.core.arguments import whole
from agentpipe.training.reading import Reading
from agentpipe.training.shard import Shard, rank_in, shard_in
from tests.stores import open_any
from tests.unit.test_group_stream import publish, records_of

COLLECTION = """
kind: collection
spec: {name: crew, config: ./agent.yaml, number: 2}
---
kind: agent
spec: {name: crew, type: python, config: {class: "mine:Agent"}}
"""
ALIKE = {"n": 2, "batch": 1}

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    broker, sink = (f"sqlite:///{tmp_path / name}.db" for name in ("broker", "results"))
    return Settings(broker=broker, sink=sink)


@pytest.fixture
def opened(settings: Settings, tmp_path: Path) -> Callable[..., Rollouts]:
    (tmp_path / "agent.yaml").write_text(COLLECTION.partition("---")[2])
    (tmp_path / "crew.yaml").write_text(COLLECTION.partition("---")[0])

    def one(prompts: Any = ("q",), **options: Any) -> Rollouts:
        options = {"collection": tmp_path / "crew.yaml", "settings": settings, **ALIKE, **options}
        return Rollouts.open(options.pop("collection"), prompts, **{"timeout_s": 0.05, **options})

    return one


@pytest.mark.parametrize(
    "prompts", ["tasks.jsonl", b"q", Path("tasks.jsonl"), {"question": "q"}, None, 3]
)
def test_prompts_that_are_no_series_of_tasks_are_refused(
    opened: Callable[..., Rollouts], prompts: Any
) -> None:
    """The characters of a path, or the keys of one task, would be sent and paid for."""
    with pytest.raises(ConfigError, match="prompts: expected a list, a loader or"):
        opened(prompts)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"n": "8"}, "a group: n must be an integer of at least 1, not '8'"),
        ({"n": True}, "n must be an integer"),
        ({"spares": None}, "spares must be an integer of at least 0, not None"),
        ({"repairs": 1.5}, "repairs must be an integer"),
        ({"need": 0}, "need must be an integer of at least 1, not 0"),
        ({"batch": 2.5}, "batch must be an integer of at least 1, not 2.5"),
        ({"max_staleness": "1"}, "max_staleness must be an integer"),
        ({"min_good": -1}, "min_good must be an integer of at least 0"),
        ({"keep": None}, "keep must be a function, not None"),
        ({"task_of": "question"}, "task_of must be a function"),
        ({"settings": "sqlite:///x.db"}, "settings must be agentpipe.Settings, not 'sqlite"),
        ({"shard": 3}, "shard: expected"),
        ({"shard": ("0", "2")}, "shard: expected"),
        ({"collection": None}, "collection must be the path of a collection file"),
        ({"name": 5}, "invalid name 5"),
    ],
    ids=str,
)
def test_an_argument_that_is_no_use_is_refused_by_its_name(
    opened: Callable[..., Rollouts], options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        opened(**options)


@pytest.mark.parametrize("options", [{"n": 1}, {"need": 1}], ids=str)
def test_a_plan_by_which_every_group_would_be_dropped_is_refused(
    opened: Callable[..., Rollouts], options: dict[str, Any]
) -> None:
    with pytest.raises(ConfigError, match="give keep=lambda group: True"):
        opened(**options)
    opened(**options, keep=lambda _: True).close()


def test_the_default_bound_of_queues_is_that_of_the_settings(
    opened: Callable[..., Rollouts], settings: Settings
) -> None:
    """The workers of these settings declare the same."""
    settings = replace(settings, max_queue_size=7)
    opened(settings=settings).close()
    with closing(open_any(settings)) as store:
        assert {queue.limit for queue in store.stats().queues} == {7}


def test_the_advice_of_one_of_several_loops_names_their_run(
    opened: Callable[..., Rollouts], settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    publish(settings, records_of("crew/0-of-2/000000", (1.0, 1.0)))
    with opened(shard=(0, 2), timeout_s=None) as rollouts:
        assert list(rollouts) == []
    assert "the loop 'crew-0-of-2' has given no group to train on" in caplog.text
    assert "`agentpipe report --run crew` says more" in caplog.text


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"keep_states": 0}, "keep_states must be an integer of at least 1"),
        ({"grace_s": "60"}, "grace_s must be None or a number of seconds"),
        ({"abandon_s": -1}, "abandon_s must be None or a number of seconds"),
        ({"timeout_s": float("nan")}, "timeout_s must be None or a number of seconds"),
        ({"group": 5}, "group must be a string"),
    ],
    ids=str,
)
def test_a_stream_of_groups_refuses_them_too(
    settings: Settings, options: dict[str, Any], said: str
) -> None:
    with pytest.raises(ConfigError, match=said):
        GroupStream.open(settings, **{"group": "trainer", **options})


@pytest.mark.parametrize(
    ("field", "value"),
    [("lag", -1), ("lag", None), ("keep_states", 0), ("timeout_s", "5"), ("start", "beginn")],
)
def test_a_dataset_refuses_them_before_its_workers_start(
    settings: Settings, field: str, value: Any
) -> None:
    fields = {"group": "g", "start": "now", "timeout_s": 1, "rows": False, "lag": 0}
    with pytest.raises(ConfigError, match=field):
        Reading(settings, **{"keep_states": 8, **fields, field: value})


def test_a_launchers_variables_are_numbers() -> None:
    assert (rank_in({"RANK": "3"}), rank_in({"RANK": ""})) == (3, 0)
    assert shard_in({}) == Shard(0, 1)
    assert shard_in({"RANK": "3", "WORLD_SIZE": "4"}) == Shard(3, 4)
    with pytest.raises(ConfigError, match="RANK: expected an integer from 0, got '-1'"):
        rank_in({"RANK": "-1"})
    with pytest.raises(ConfigError, match="WORLD_SIZE: expected an integer from 0, got 'two'"):
        shard_in({"WORLD_SIZE": "two"})


@pytest.mark.parametrize(
    ("ranks", "said"),
    [({}, "not set"), ({"WORLD_SIZE": ""}, "not set"), ({"WORLD_SIZE": "2"}, "2")],
)
def test_a_rank_without_the_number_of_ranks_names_both(ranks: dict[str, str], said: str) -> None:
    with pytest.raises(ConfigError, match=f"^RANK is 2, and WORLD_SIZE is {said}: .* Set both"):
        shard_in({"RANK": "2", **ranks})


class Whole:
    """An integer of a library, such as NumPy's."""

    def __index__(self) -> int:
        return 8


def test_integers_of_libraries_count() -> None:
    assert whole("n", Whole()) == 8

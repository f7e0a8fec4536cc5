"""A trainer's loop over groups with real workers, both of which are killed."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
from collections import Counter
from contextlib import closing, suppress
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe import ConfigError, ResultTimeout, Rollouts, Settings, TaskError
from agentpipe.operations.policies import find_policy
from tests.integration.trainers import (
    COLLECTION,
    JUDGED,
    PROMPTS,
    assert_each_once,
    end_of,
    settings_on,
    trainer,
    working,
    write_project,
)
from tests.stores import open_any
from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from agentpipe.core.policy import PolicyState

KILLS = 50


# The conformance suite tests the same store operations on both brokers.
@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.long)])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    write_project(tmp_path)
    return settings_on(request, tmp_path)


@pytest.fixture
def workers(settings: Settings, tmp_path: Path) -> Iterator[None]:
    with working(settings, tmp_path):
        yield


@pytest.mark.usefixtures("workers")
def test_flat_groups_are_replaced_and_the_rest_is_used(settings: Settings, tmp_path: Path) -> None:
    end = end_of(trainer(settings, tmp_path))
    assert (end["flat"], end["step"]) == (PROMPTS // 2, PROMPTS // 2 // 3)
    assert_each_once(end["used"], tmp_path)
    assert printed("report", "--run", "mixed", settings=settings)["results"] == 4 * PROMPTS


def printed(*args: str, settings: Settings) -> Any:
    urls = ["--broker", settings.broker, "--sink", settings.sink]
    command = [sys.executable, "-m", "agentpipe", *args, *urls, "--json"]
    out = subprocess.run(command, check=True, stdout=subprocess.PIPE, timeout=60).stdout
    return json.loads(out)


def one_by_one(rollouts: Rollouts) -> Iterator[str]:
    """Ids of the groups; a wait that times out is repeated, as trainers do."""
    groups = rollouts.groups()
    while True:
        try:
            yield next(groups).group_id
        except ResultTimeout:
            groups = rollouts.groups()
        except StopIteration:
            return


@pytest.mark.long
@pytest.mark.usefixtures("workers")
def test_groups_that_were_given_and_not_trained_on_come_again(
    settings: Settings, tmp_path: Path
) -> None:
    def opened() -> Rollouts:
        prompts = [{"question": str(number), "evaluators": JUDGED} for number in range(PROMPTS)]
        path = tmp_path / "mixed.yaml"
        return Rollouts.open(path, prompts, n=4, batch=3, settings=settings, timeout_s=0.2)

    with opened() as rollouts:
        groups = one_by_one(rollouts)
        first = [next(groups) for _ in range(6)]
        state = json.loads(json.dumps(rollouts.state_dict(unused=first[3:])))
    with opened() as rollouts:
        rollouts.load_state_dict(state)
        rest = list(one_by_one(rollouts))
    assert set(first[3:]) <= set(rest)
    assert_each_once(first[:3] + rest, tmp_path)


@pytest.mark.long
@pytest.mark.usefixtures("workers")
def test_a_trainer_killed_at_any_point_uses_each_group_once(
    settings: Settings, tmp_path: Path
) -> None:
    chance = random.Random(1)
    for _ in range(KILLS):
        process = trainer(settings, tmp_path)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=0.2 + 2 * chance.random())
        process.kill()
        process.communicate()
        if process.returncode != -signal.SIGKILL:
            break
    assert process.returncode in (0, -signal.SIGKILL)
    assert_each_once(end_of(trainer(settings, tmp_path))["used"], tmp_path)


@pytest.fixture
def policy(settings: Settings, tmp_path: Path) -> Callable[[], PolicyState]:
    """Add a policy to the collection; returns a function that reads its state."""
    spec = {"name": "main", "endpoints": ["http://127.0.0.1:9/v1"], "batch": 1, "max_staleness": 1}
    mixed = COLLECTION.replace("queue_size: 20", "queue_size: 20, policy: main")
    document = yaml.safe_dump({"kind": "policy", "spec": spec})
    (tmp_path / "mixed.yaml").write_text(f"{document}---{mixed}")

    def state() -> PolicyState:
        with closing(open_any(settings)) as store:
            return find_policy(store, "main")

    return state


@pytest.mark.long
@pytest.mark.usefixtures("policy", "workers")
def test_no_group_begins_in_place_of_one_that_comes_again(
    settings: Settings, tmp_path: Path, policy: Callable[[], PolicyState]
) -> None:
    """A trainer resumes from a state of version 0, after three groups have ended at version 1."""

    def opened() -> Rollouts:
        prompts = [{"question": "2", "evaluators": JUDGED} for _ in range(8)]
        path = tmp_path / "mixed.yaml"
        return Rollouts.open(path, prompts, n=2, batch=1, settings=settings, timeout_s=60)

    def ended(number: int) -> PolicyState:
        wait_until(lambda: (policy().accepted, policy().running) == (number, 0), 60, f"{number}")
        return policy()

    with opened() as rollouts:
        groups = rollouts.groups()
        next(groups)
        saved = rollouts.state_dict()
        next(groups)
        assert rollouts.policy is not None
        rollouts.policy.publish(1)
        assert ended(3).room == 0
    with opened() as rollouts:
        rollouts.load_state_dict(saved)
        groups = rollouts.groups()
        found = [next(groups).group_id, next(groups).group_id]
        state = ended(3)
        assert (state.version, state.room) == (0, -1)
        assert rollouts.policy is not None
        rollouts.policy.publish(2)
        found.append(next(groups).group_id)
        assert ended(4).room == 0
    assert found == [f"mixed/{number:06}" for number in (1, 2, 3)]


@pytest.mark.long
@pytest.mark.usefixtures("workers")
def test_several_trainers_share_the_prompts_also_where_one_is_killed(
    settings: Settings, tmp_path: Path
) -> None:
    killed = trainer(settings, tmp_path, 0, 3)
    wait_until((tmp_path / "checkpoint-0.json").exists, 60, "it has used a batch")
    killed.kill()
    killed.communicate()
    ranks = [trainer(settings, tmp_path, number, 3) for number in range(3)]
    used = [name for each in ranks for name in end_of(each)["used"]]
    # For example, a rank's third prompt is mixed/1-of-3/000002.
    parts = [name.removeprefix("mixed/").split("-of-3/") for name in used]
    assert sorted(3 * int(at) + int(rank) for rank, at in parts) == [*range(0, PROMPTS, 2)]
    ran = Counter((tmp_path / "journal").read_text().split())
    assert set(ran.values()) == {1}
    assert len(ran) == 4 * PROMPTS


@pytest.mark.usefixtures("workers")
@pytest.mark.parametrize(
    ("min_good", "given"),
    [(3, 7), *(pytest.param(least, 3, marks=pytest.mark.long) for least in (4, None))],
)
def test_short_groups_are_given_where_so_many_goods_are_enough(
    settings: Settings, tmp_path: Path, min_good: int | None, given: int
) -> None:
    names = ["fail0", "fail2", "0", "fail4", "2", "4", "fail6"]
    prompts = [{"question": name, "evaluators": JUDGED} for name in names]
    options: dict[str, Any] = {"n": 4, "batch": 2, "min_good": min_good, "timeout_s": 60}
    with Rollouts.open(tmp_path / "mixed.yaml", prompts, settings=settings, **options) as rollouts:
        sizes = [len(batch.groups) for batch in rollouts]
        assert sum(sizes) == given
        # The last returned group is counted when the next one is requested.
        assert rollouts.counts["short"] + (given == 7) == 4
    assert set(sizes[:-1]) == {2}


def test_what_is_wrong_is_told_where_it_is_given(settings: Settings, tmp_path: Path) -> None:
    def opened(prompts: list[Any], **options: Any) -> Rollouts:
        options = {"n": 2, "batch": 2, "timeout_s": 0.2, **options}
        return Rollouts.open(tmp_path / "mixed.yaml", prompts, settings=settings, **options)

    for options, said in (
        ({"batch": 0}, "batch"),
        ({"need": 3}, "need must be 1 to 2"),
        ({"name": "../x"}, "invalid name "),
        ({"policy": "none"}, "policy"),
        ({"shard": (2, 2)}, "shard: expected"),
    ):
        with pytest.raises(ConfigError, match=said):
            opened(["q"], **options)
    with opened(["q", {"question": 7}]) as rollouts, pytest.raises(TaskError, match="prompt 1: "):
        next(iter(rollouts))
    with opened(["q"], name="alone") as rollouts:
        with pytest.raises(ResultTimeout, match="1 are out"):
            next(iter(rollouts))
        with pytest.raises(ConfigError, match="not a state of the loop 'alone'"):
            rollouts.load_state_dict({**rollouts.state_dict(), "name": "other"})
        odd: list[Any] = [[], {"version": 1, "name": "alone"}]
        for found in (*odd, {**rollouts.state_dict(), "version": 2}):
            with pytest.raises(ConfigError, match="not a state of the loop 'alone'"):
                rollouts.load_state_dict(found)

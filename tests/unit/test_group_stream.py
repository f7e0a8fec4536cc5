"""Groups of a stream: each complete, delivered once, and committed after use."""

from __future__ import annotations

import json
import random
from contextlib import closing
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe import GroupStream, RolloutGroup
from agentpipe.brokers.records import Queue
from agentpipe.core.groups import GroupEnd, repair_of, status_of
from agentpipe.core.policy import PolicyChange, PolicySpec
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.core.rollout import without_segments
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.sinks.stream import Stream
from agentpipe.training.group_items import GroupItems
from agentpipe.training.reading import Reading, ResultRows
from agentpipe.training.rollout_group import varied
from agentpipe.training.shard import WHOLE
from tests.stores import open_any

if TYPE_CHECKING:
    from pathlib import Path

REWARDS = (0.0, 1.0)
SEGMENT = {
    "token_ids": [1, 2],
    "sampled": [[1, 2]],
    "logprobs": [-1.0],
    "turns": [{"span": "", "at": 0, "finish": "stop", "versions": [[0, 1, 2]]}],
    "of": None,
}


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(sink=f"sqlite:///{tmp_path / 'results.db'}?synchronous=normal")


def records_of(
    name: str, rewards: tuple[float | None, ...] = REWARDS, *, counted: bool = True, **fields: Any
) -> list[Record]:
    """The records of a group; a reward of None is a member that was not judged."""
    results = [
        Result(
            task_id=f"{name}/{index}",
            group_id=name,
            sample_index=index,
            group_size=len(rewards),
            group_need=len(rewards) if counted else None,
            reward=reward,
            reward_trustworthy=reward is not None,
            **fields,
        )
        for index, reward in enumerate(rewards)
    ]
    records = [Record(it.task_id, it.encode(Redactor(()))) for it in results]
    return [*records, end_of(name, rewards)] if counted else records


def end_of(name: str, rewards: tuple[float | None, ...], versions: tuple[int, ...] = ()) -> Record:
    good = sum(reward is not None for reward in rewards)
    members = tuple(f"{name}/{index}" for index in range(len(rewards)))
    status = status_of(good, len(rewards), cancelled=False)
    return Record(name, GroupEnd(name, status, good, members, versions).encode())


def publish(settings: Settings, *groups: list[Record], shuffled: int | None = None) -> None:
    records = [record for group in groups for record in group]
    if shuffled is not None:
        random.Random(shuffled).shuffle(records)
    sink = open_sink(settings)
    sink.publish(records)
    sink.close()


def opened(settings: Settings, **options: Any) -> GroupStream:
    options = {"timeout_s": 0.05, **options}
    return GroupStream.open(settings, group="trainer", **options)


def names_of(stream: GroupStream) -> list[str]:
    return [group.group_id for group in stream]


def test_groups_come_whole_whatever_the_order_of_their_records(settings: Settings) -> None:
    for seed in range(3):
        groups = [records_of(f"{seed}-{index}", counted=index % 2 == 0) for index in range(10)]
        publish(settings, *groups, shuffled=seed)
    with opened(settings) as stream:
        found = list(stream)
    assert len({group.group_id for group in found}) == len(found) == 30
    assert all(group.rewards == list(REWARDS) for group in found)
    assert stream.counts == {"complete": 30}


def attempt(name: str, finished_at: str, **fields: Any) -> Record:
    """An attempt at a sample in a group of two, which no broker counts."""
    fields = {"sample_index": 0, "reward_trustworthy": True, "outcome": "ok", **fields}
    result = Result(
        task_id=name, group_id="g", group_size=2, finished_at=f"2026-01-01T{finished_at}Z", **fields
    )
    return Record(name, result.encode(Redactor(())))


def test_of_a_sample_that_was_tried_again_the_attempt_that_finished_last_counts(
    settings: Settings,
) -> None:
    again = attempt("g/0~r1", "10:00:02.0", retry_of="g/0", reward=1.0)
    first = attempt("g/0", "10:00:01.0", reward=0.0)
    other = attempt("g/1", "10:00:03.0", sample_index=1, reward=0.5)
    publish(settings, [again, first, other])
    with opened(settings) as stream:
        (group,) = list(stream)
    assert group.rewards == [1.0, 0.5]


def test_samples_without_an_index_are_told_apart_by_their_ids(settings: Settings) -> None:
    rewards = zip(("a", "b"), REWARDS, strict=True)
    publish(settings, [attempt(n, "10:00:01.0", sample_index=None, reward=r) for n, r in rewards])
    with opened(settings) as stream:
        (group,) = list(stream)
    assert [result.task_id for result in group.results] == ["a", "b"]


def test_the_plain_stream_gives_results_alone(settings: Settings) -> None:
    publish(settings, records_of("g"))
    with Stream.open(settings, start="beginning", timeout_s=0.05) as stream:
        assert [result.task_id for result in stream] == ["g/0", "g/1"]
        assert stream.skipped == 0


def test_what_is_short_flat_or_stale_is_counted_and_not_given(settings: Settings) -> None:
    old = [*records_of("stale")[:-1], end_of("stale", REWARDS, (3, 9))]
    publish(settings, records_of("short", (1.0, None)), records_of("flat", (1.0, 1.0)), old)
    publish(settings, records_of("g"))
    with opened(settings, max_staleness=5) as stream:
        stream.version = 9
        assert names_of(stream) == ["g"]
    assert stream.counts == {"complete": 1, "short": 1, "flat": 1, "stale": 1}


def test_a_short_group_with_enough_goods_is_given_if_that_is_asked_for(settings: Settings) -> None:
    publish(settings, records_of("g", (1.0, 0.0, None)))
    with opened(settings, min_good=2) as stream:
        (group,) = list(stream)
    assert (group.status, group.rewards, len(group.goods)) == ("short", [1.0, 0.0, None], 2)
    assert stream.counts == {"short": 1}


def test_a_rollout_that_was_cut_on_its_way_makes_its_group_short(settings: Settings) -> None:
    whole = {"required": True, "exact": True, "segments": []}
    cut = without_segments(whole)
    publish(settings, records_of("whole", rollout=whole), records_of("cut", rollout=cut))
    publish(settings, records_of("tried", rollout={**cut, "required": False}))
    with opened(settings) as stream:
        assert names_of(stream) == ["whole", "tried"]
    assert stream.counts == {"complete": 2, "short": 1}


def test_a_bound_below_which_every_group_is_stale_is_refused(
    settings: Settings, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError, match="max_staleness must be an integer of at least 0, not -1"):
        GroupStream.open(settings, group="g", max_staleness=-1)
    assert not list(tmp_path.iterdir())  # Refused before it opened anything.


def test_a_group_whose_loop_was_left_comes_again(settings: Settings) -> None:
    publish(settings, *(records_of(f"g{index}") for index in range(4)))
    with opened(settings) as stream:
        for group in stream:
            if group.group_id == "g2":
                break
    with opened(settings) as stream:
        assert names_of(stream) == ["g2", "g3"]


def test_a_later_loop_goes_on_where_one_was_left_and_states_have_each_group(
    settings: Settings,
) -> None:
    publish(settings, *(records_of(f"g{index}") for index in range(6)))
    found: list[str] = []
    with opened(settings) as stream:
        stream.state_dict()  # From now on, nothing is committed that is not in a state.
        for last in ("g1", "g3", "g5"):
            for group in stream:
                found.append(group.group_id)
                if group.group_id == last:
                    break
        state = stream.state_dict()
        assert found == state["used"] == [f"g{index}" for index in range(6)]
    with opened(settings) as stream:
        stream.load_state_dict(state)
        assert names_of(stream) == []


def test_groups_that_are_not_given_take_no_room_of_the_lag(settings: Settings) -> None:
    flat = (records_of(f"f{index}", (1.0, 1.0)) for index in range(6))
    publish(settings, records_of("g0"), records_of("g1"), *flat, records_of("g2"))
    reading = Reading(settings, "trainer", "beginning", 0.05, rows=False, lag=2, keep_states=8)
    for _ in range(2):  # Killed before the trainer used any prefetched group.
        items = GroupItems(reading, {"keep": varied}).epoch(WHOLE, None)
        assert [next(items)[0] for _ in range(3)] == ["group g0", "group g1", "group g2"]
        items.close()


class Told:
    """A policy that records which groups are given back."""

    version, max_staleness = 0, None

    def __init__(self) -> None:
        self.back: list[tuple[int, str]] = []

    def give_back(self, groups: int, *, unused: str = "") -> None:
        if groups:
            self.back.append((groups, unused))

    def close(self) -> None:
        """Nothing is open."""


def test_a_policy_gets_back_each_group_that_its_broker_has_counted_in_vain(
    settings: Settings,
) -> None:
    cut = without_segments({"segments": [{"token_ids": [1]}], "exact": True, "gaps": []})
    publish(settings, records_of("cut", rollout={**cut, "required": True}))
    publish(settings, records_of("flat", (1.0, 1.0)), records_of("lost")[1:], records_of("used"))
    policy: Any = Told()
    with opened(settings, grace_s=0, timeout_s=1.1) as stream:
        stream.policy = policy
        assert names_of(stream) == ["used"]
    assert sorted(policy.back) == [(1, ""), (1, ""), (1, "flat")]


def test_a_group_without_rows_leaves_its_room_to_another_where_rows_are_asked_for(
    settings: Settings, tmp_path: Path
) -> None:
    """The broker counted it for the policy; its rollouts were recorded only where possible."""
    settings = replace(settings, broker=f"sqlite:///{tmp_path / 'broker.db'}")
    exact = {"version": 1, "exact": True, "segments": [SEGMENT], "versions": [0, 0], "stop": "stop"}
    publish(settings, records_of("bare"), records_of("whole", rollout=exact))
    with closing(open_any(settings)) as store:
        spec = PolicySpec("main", batch=4, max_staleness=0)
        store.declare([Queue("q", "c", policy=spec)])
        store.change_policy("main", PolicyChange(accepted=2))
        reading = Reading(settings, "trainer", "beginning", 0.05, rows=True, lag=0, keep_states=8)
        found = list(GroupItems(reading, {"keep": varied, "policy": "main"}).epoch(WHOLE, None))
        assert [(name, len(rows)) for name, rows in found] == [("group whole", 2)]
        assert store.policies()[0].accepted == 1


def overlapping(number: int) -> list[Record]:
    """Each group's last records follow the first of the next: no position separates them."""
    groups = [records_of(f"g{index:02}") for index in range(number)]
    ordered = [groups[0][0]]
    for one, other in pairwise(groups):
        ordered += [other[0], *one[1:]]
    return [*ordered, *groups[-1][1:]]


def test_groups_that_overlap_are_committed_without_states(settings: Settings) -> None:
    publish(settings, overlapping(50))
    found: list[str] = []
    for _ in range(5):  # The rest of a group that was used is not delivered again.
        with opened(settings) as stream:
            for group in stream:
                found.append(group.group_id)
                if len(found) % 11 == 10:
                    break
    assert list(dict.fromkeys(found)) == [f"g{index:02}" for index in range(50)]
    assert len(found) <= 50 + 2 * 5


def test_a_reader_holds_no_more_than_what_runs_beside_it(settings: Settings) -> None:
    publish(settings, overlapping(50))
    with opened(settings) as stream:
        held = [len(stream._stream.held) for _ in stream]  # noqa: SLF001 - nothing else shows it
    assert max(held) <= 6


@pytest.mark.parametrize("missing", [0, -1], ids=["a result", "the record"])
def test_a_group_that_ended_and_lacks_something_is_given_up_and_told(
    settings: Settings, caplog: pytest.LogCaptureFixture, missing: int
) -> None:
    lacking = records_of("lacking")
    late = lacking.pop(missing)
    publish(settings, lacking, *(records_of(f"g{index}") for index in range(3)))
    with opened(settings, grace_s=1, timeout_s=1.5) as stream:
        assert names_of(stream) == ["g0", "g1", "g2"]
    assert stream.counts == {"complete": 3, "lost": 1}
    assert "1 groups given up, of which a Result or the record" in caplog.text
    assert caplog.text.rstrip().endswith("lacking")
    publish(settings, [late], records_of("g3"))
    with opened(settings) as stream:
        assert names_of(stream) == ["g3"]
        assert stream.counts["lost"] == 0


def test_what_lacks_something_is_given_up_though_nothing_more_comes(settings: Settings) -> None:
    publish(settings, records_of("lacking")[1:])
    with opened(settings, grace_s=0.0, timeout_s=None) as stream:
        assert next(stream.ends()) is None  # No timeout to wait for.
        for end in stream.ends():
            assert end is None
            if stream.counts["lost"]:
                break
        assert stream.last_lost == ("lacking",)


def test_the_rows_of_a_group_are_read_once(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    read, of = list[str](), ResultRows.of

    def noted(rows: ResultRows, result: Result) -> list[dict[str, Any]]:
        read.append(result.task_id)
        return of(rows, result)

    monkeypatch.setattr(ResultRows, "of", noted)
    rollout = {"version": 1, "exact": True, "segments": [SEGMENT], "stop": "stop"}
    publish(settings, records_of("g", rollout=rollout))
    items = GroupItems(Reading(settings, "trainer", "beginning", 0.2, True, 0, 8), {})
    (found,) = [rows for _, rows in items.epoch(WHOLE, None)]
    assert [row["task_id"] for row in found] == ["g/0", "g/1"]
    assert read == ["g/0", "g/1"]


def test_a_group_that_still_runs_is_given_up_only_after_a_time_that_is_asked_for(
    settings: Settings,
) -> None:
    running, repaired = records_of("running")[:1], records_of("repaired", outcome="crashed")[:-1]
    publish(settings, running, repaired, records_of("g"))
    with opened(settings, grace_s=1, timeout_s=1.5) as stream:
        assert names_of(stream) == ["g"]
        assert stream.counts == {"complete": 1}
    with opened(settings, abandon_s=1, timeout_s=1.5) as stream:
        assert names_of(stream) == ["g"]
        assert stream.counts == {"complete": 1, "lost": 2}
    with opened(settings) as stream:
        assert names_of(stream) == []


@pytest.mark.parametrize("seed", range(10))
def test_each_group_is_used_once_over_any_kills_and_states(settings: Settings, seed: int) -> None:
    chance = random.Random(seed)
    groups = [records_of(f"g{index:02}") for index in range(20)]
    publish(settings, *groups, shuffled=seed)
    used: list[str] = []
    saved: tuple[int, dict[str, Any] | None] = (0, None)
    while len(used) < len(groups):
        used = used[: saved[0]]  # What a killed trainer lost.
        stream = opened(settings)
        if saved[1] is not None:
            stream.load_state_dict(saved[1])
        steps = chance.randint(1, 6)
        for group in stream:
            used.append(group.group_id)
            if len(used) == 1 or chance.random() < 0.5:
                saved = len(used), stream.state_dict()
            steps -= 1
            if not steps:
                break
        stream.close()
    assert sorted(used) == [f"g{index:02}" for index in range(20)]


def test_a_reader_that_restarts_after_each_state_reads_and_saves_no_more_with_time(
    settings: Settings,
) -> None:
    """Otherwise nothing would ever be committed: each start has fewer states than are kept."""
    read, sizes, state, found = list[int](), list[int](), None, list[str]()
    for number in range(12):
        publish(settings, *(records_of(f"g{number}-{index}") for index in range(5)), shuffled=2)
        with opened(settings, keep_states=3) as stream:
            if state is not None:
                stream.load_state_dict(json.loads(json.dumps(state)))
            found += names_of(stream)
            state = stream.state_dict()
            read.append(len(stream._stream.held))  # noqa: SLF001 - nothing else shows it
            sizes.append(len(state["used"]))
    assert sorted(found) == sorted(
        f"g{number}-{index}" for number in range(12) for index in range(5)
    )
    assert sizes[-1] == sizes[5] <= 3 * 5
    assert read[-1] == read[5] <= 3 * 5 * 3


@pytest.mark.parametrize("back", range(3))
def test_any_of_the_kept_states_is_exact_also_after_a_restart(
    settings: Settings, back: int
) -> None:
    publish(settings, *(records_of(f"g{index}") for index in range(30)), shuffled=3)
    states, used, saved = list[Any](), list[str](), list[list[str]]()
    for _ in range(6):
        stream = opened(settings, keep_states=3)
        if states:
            stream.load_state_dict(states[-1])
        for _, group in zip(range(4), stream, strict=False):
            used.append(group.group_id)
            states.append(stream.state_dict())
            saved.append(list(used))
        stream.close()
    with opened(settings, keep_states=3) as stream:
        stream.load_state_dict(states[-1 - back])
        rest = names_of(stream)
    assert sorted(saved[-1 - back] + rest) == sorted(f"g{index}" for index in range(30))


def test_readers_share_groups_without_overlap(settings: Settings) -> None:
    publish(settings, *(records_of(f"g{index}") for index in range(30)), shuffled=1)
    found = []
    for number in range(3):
        with opened(settings, shard=(number, 3)) as stream:
            found += names_of(stream)
    assert sorted(found) == sorted(f"g{index}" for index in range(30))


@pytest.mark.parametrize(
    "state",
    [{"version": 1, "group": "other", "used": []}, {"version": 1, "group": "trainer"}, {}, None, 3],
)
def test_what_is_no_state_of_the_group_is_refused(settings: Settings, state: Any) -> None:
    with opened(settings) as stream:
        own = stream.state_dict()
        with pytest.raises(ConfigError, match="not a state of the group"):
            stream.load_state_dict(own, state)


@pytest.mark.parametrize(
    ("kind", "expected"),
    [("mean", [-0.5, 0.5]), ("rloo", [-1.0, 1.0]), ("grpo", [-0.707, 0.707])],
)
def test_advantages_are_of_goods_alone(kind: Any, expected: list[float]) -> None:
    results = tuple(
        Result(reward=reward, reward_trustworthy=reward is not None) for reward in (0.0, None, 1.0)
    )
    group = RolloutGroup("g", results, "short")
    assert group.advantages(kind) == pytest.approx(expected, abs=1e-3)


def test_a_repair_has_an_id_of_its_own_and_names_the_first() -> None:
    first = repair_of(Task(task_id="g~1/0", group_id="g~1"))
    assert first is not None
    second = repair_of(first)
    assert second is not None
    assert [(it.task_id, it.retry_of) for it in (first, second)] == [
        ("g~1/0~1", "g~1/0"),
        ("g~1/0~2", "g~1/0"),
    ]
    assert repair_of(Task(task_id="x" * 256)) is None

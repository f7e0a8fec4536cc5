"""States of a trainer's loop: damaged ones are refused whole, and one is loaded exactly."""

from __future__ import annotations

import json
from copy import deepcopy
from typing import TYPE_CHECKING, Any, cast

import pytest

from agentpipe import ConfigError, GroupStream
from agentpipe.errors import Unreachable
from agentpipe.settings import Settings
from tests.unit.test_group_stream import names_of, opened, publish, records_of
from tests.unit.test_loop_timeouts import Feed, loop_over

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe import Rollouts
    from agentpipe.training.policy import Policy


class Prompts(Feed):
    """Remembers what was loaded."""

    loaded: Any = None
    refuses = False

    def refuse_other(self, _: Any) -> None:
        if self.refuses:
            raise ConfigError("of other prompts")

    def state_dict(self) -> dict[str, Any]:
        return {"sent": self.position, "prompts": {"taken": self.position}, "out": []}

    def load_state_dict(self, state: Any) -> None:
        self.loaded = state


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(sink=f"sqlite:///{tmp_path / 'results.db'}?synchronous=normal")


def loop(settings: Settings, sent: int = 2) -> Rollouts:
    return loop_over(Prompts(sent), opened(settings))


LOADER = {"taken": 0, "loader": {}, "left": [], "ended": False}


@pytest.mark.parametrize(
    ("part", "value", "said"),
    [
        ("prompts", None, "prompts: expected an object with the integer `taken`, got None"),
        ("prompts", {"taken": None}, "prompts: "),
        ("prompts", {**LOADER, "left": None}, "prompts: "),
        ("prompts", {**LOADER, "ended": None}, "prompts: "),
        ("out", None, "out: expected a list of"),
        ("out", [["g0", 0]], "out: expected a list of"),
        ("sent", "5", "sent: expected an integer from 0, got '5'"),
        ("sent", True, "sent: expected an integer"),
        ("step", -1, "step: expected an integer from 0"),
        ("over", None, "over: expected an integer"),
        ("policy_version", "7", "policy_version: expected an integer"),
        ("groups", None, "groups: expected an object"),
        ("groups", {"version": 1, "group": "trainer", "used": [1]}, "used: expected a list of ids"),
        (
            "groups",
            {"version": 1, "group": "trainer", "used": [], "states": None},
            "states: expected a list of integers",
        ),
        ("name", "other", "its name is 'other'"),
        ("version", 2, "expected version 1, got 2"),
    ],
)
def test_a_damaged_state_is_refused_by_its_part_and_changes_nothing(
    settings: Settings, part: str, value: Any, said: str
) -> None:
    feed = Prompts(2)
    with loop_over(feed, opened(settings)) as rollouts:
        good = json.loads(json.dumps(rollouts.state_dict()))
        with pytest.raises(ConfigError, match=f"^not a state of the .*: {said}"):
            rollouts.load_state_dict({**deepcopy(good), part: value})
        assert feed.loaded is None
        rollouts.load_state_dict(good)
        assert feed.loaded == good


@pytest.mark.parametrize("given", [None, [], "{}", 3])
def test_what_is_no_state_at_all_is_shown(settings: Settings, given: Any) -> None:
    with loop(settings) as rollouts, pytest.raises(ConfigError, match=r"what state_dict\(\) retur"):
        rollouts.load_state_dict(given)


def test_a_list_of_states_is_told_how_to_give_several(settings: Settings) -> None:
    with opened(settings) as stream, pytest.raises(ConfigError, match=r"load_state_dict\(\*sta"):
        stream.load_state_dict([stream.state_dict()])  # type: ignore[arg-type]


def test_of_two_states_only_one_is_loaded(settings: Settings) -> None:
    """Of both together, groups would count as used that one of them has not used."""
    publish(settings, records_of("g0"), records_of("g1"))
    with loop(settings) as rollouts:
        before = rollouts.state_dict()
        groups = rollouts.groups()
        next(groups)
        after = rollouts.state_dict()
    with loop(settings) as rollouts:
        rollouts.load_state_dict(after)
        with pytest.raises(ConfigError, match="has begun, or has loaded a state: open it again"):
            rollouts.load_state_dict(before)
    with loop(settings) as rollouts:
        next(rollouts.groups())
        with pytest.raises(ConfigError, match="has begun, or has loaded a state: open it again"):
            rollouts.load_state_dict(before)


@pytest.mark.parametrize("unused", ["g0", ["g1"], ["g0", "nothing"], [None, "x"], [["g0"]]])
def test_only_groups_that_can_come_again_are_unused(settings: Settings, unused: Any) -> None:
    """A state that counts others as out would have the loop wait for them for ever."""
    publish(settings, records_of("g0"))
    with loop(settings) as rollouts:
        next(rollouts.groups())
        with pytest.raises(ConfigError, match="unused: the group "):
            rollouts.state_dict(unused=unused)
        assert rollouts.state_dict(unused=["g0", "g0"])["over"] == 0
        assert rollouts.state_dict(unused=["g0"])["over"] == 0


def test_a_group_that_a_state_counts_as_used_stays_used(settings: Settings) -> None:
    """The broker does not send it again: a loop with that state would wait for ever."""
    publish(settings, records_of("g0"))
    with loop(settings) as rollouts:
        next(rollouts.groups())
        rollouts.state_dict()
        with pytest.raises(ConfigError, match="'g0' was not yielded, or is used by an earlier"):
            rollouts.state_dict(unused=["g0"])


def test_a_group_of_an_earlier_state_is_not_unused(settings: Settings) -> None:
    publish(settings, records_of("g0"), records_of("g1"))
    with loop(settings) as rollouts:
        next(rollouts.groups())
        state = rollouts.state_dict()
    with loop(settings) as rollouts:
        rollouts.load_state_dict(state)
        assert next(rollouts.groups()).group_id == "g1"
        with pytest.raises(ConfigError, match="unused: the group 'g0'"):
            rollouts.state_dict(unused=["g0"])
        assert rollouts.state_dict(unused=["g1"])["over"] == 1


class Away:
    """A policy whose broker does not answer at first."""

    name, version, max_staleness = "main", 3, None

    def __init__(self) -> None:
        self.answers = False

    def recover(self, version: int, **_: None) -> None:
        if not self.answers:
            raise Unreachable("no answer")
        self.version = version

    def close(self) -> None:
        """Nothing is open."""


def test_a_state_is_loaded_again_where_it_failed(settings: Settings) -> None:
    publish(settings, records_of("g0"), records_of("g1"))
    with loop(settings) as rollouts:
        next(rollouts.groups())
        state = {**rollouts.state_dict(), "policy_version": 2}
    feed, stream, policy = Prompts(2), opened(settings), Away()
    stream.policy = cast("Policy", policy)
    with loop_over(feed, stream) as rollouts:
        with pytest.raises(Unreachable):
            rollouts.load_state_dict(state)
        fresh = rollouts.state_dict()
        assert (feed.loaded, fresh["over"], fresh["groups"]["used"]) == (None, 0, [])
        policy.answers = True
        rollouts.load_state_dict(state)
        assert (feed.loaded, policy.version) == (state, 2)
        assert rollouts.state_dict()["groups"]["used"] == ["g0"]


def test_a_state_of_other_prompts_changes_nothing(settings: Settings) -> None:
    feed, stream, policy = Prompts(2), opened(settings), Away()
    stream.policy, policy.answers = cast("Policy", policy), True
    with loop_over(feed, stream) as rollouts:
        state = {**rollouts.state_dict(), "policy_version": 2}
        feed.refuses = True
        with pytest.raises(ConfigError, match="of other prompts"):
            rollouts.load_state_dict(state)
        assert (feed.loaded, policy.version) == (None, 3)
        feed.refuses = False
        rollouts.load_state_dict(state)
        assert (feed.loaded, policy.version) == (state, 2)


def test_a_closed_loop_says_so_and_has_its_state(settings: Settings) -> None:
    publish(settings, records_of("g0"))
    rollouts = loop(settings)
    next(rollouts.groups())
    state = rollouts.state_dict()
    for _ in range(2):
        rollouts.close()
    for again in (rollouts.groups(), iter(rollouts)):
        with pytest.raises(ConfigError, match="the loop 'trainer' is closed: open it again"):
            next(again)
    assert rollouts.state_dict()["groups"]["used"] == state["groups"]["used"] == ["g0"]


@pytest.mark.parametrize(
    ("groups", "said"),
    [
        ([records_of("g0", (1.0, 1.0)), records_of("g1", (None, None))], "1 flat, 1 short. In a"),
        ([], "was given no prompt"),
    ],
    ids=["useless", "none"],
)
def test_a_loop_that_has_nothing_to_train_on_says_why(
    settings: Settings, caplog: pytest.LogCaptureFixture, groups: list[Any], said: str
) -> None:
    publish(settings, *groups)
    with loop(settings, sent=len(groups)) as rollouts:
        assert list(rollouts) == []
    assert caplog.text.count(said) == 1


def test_a_loop_that_goes_on_says_only_what_it_has_seen(
    settings: Settings, caplog: pytest.LogCaptureFixture
) -> None:
    """Whether the loop had groups before its state was saved, the state does not say."""
    publish(settings, records_of("g0"), records_of("g1", (1.0, 1.0)), records_of("g2", (0.0, 0.0)))
    with loop(settings, sent=3) as rollouts:
        next(rollouts.groups())
        state = rollouts.state_dict()
    with loop(settings, sent=3) as rollouts:
        rollouts.load_state_dict(state)
        assert list(rollouts.groups()) == []
    assert "given no group to train on since it was opened: 2 flat" in caplog.text
    assert "`agentpipe report --run experiment` says more" in caplog.text


def test_a_group_comes_again_if_the_choice_has_raised(settings: Settings) -> None:
    publish(settings, records_of("g0"), records_of("g1"))
    faults = [OSError("disk")]

    def keep(_: Any) -> bool:
        if faults:
            raise faults.pop()
        return True

    with opened(settings, keep=keep) as stream:
        with pytest.raises(OSError, match="disk") as raised:
            names_of(stream)
        assert raised.value.__notes__ == ["raised by `keep` for the group 'g0'"]
        assert names_of(stream) == ["g0", "g1"]


def test_a_stream_of_groups_is_closed_twice(settings: Settings) -> None:
    publish(settings, records_of("g0"))
    stream = opened(settings)
    for _ in range(2):
        stream.close()
    assert isinstance(stream, GroupStream)
    assert names_of(stream) == []

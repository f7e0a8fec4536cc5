"""A trainer's loop times out while none of its own results arrive, and can resume."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from agentpipe import GroupStream, ResultTimeout, Rollouts
from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.training.loop_connections import LoopConnections
from agentpipe.training.loop_report import LoopReport
from tests.unit.test_group_stream import opened, publish, records_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path


class Feed:
    """Has sent ``sent`` prompts, and sends no more."""

    run, has_more = "experiment", False

    def __init__(self, sent: int) -> None:
        self.position = sent

    def send(self, number: int, *, wait: bool) -> None:
        assert number <= 1 or not wait
        assert not wait, "this would wait for ever"

    def over(self, is_over: Callable[[str], bool]) -> None:
        """Do nothing: no prompts are remembered."""

    def state_dict(self) -> dict[str, Any]:
        return {"sent": self.position}

    def close(self) -> None:
        """Nothing is open."""


class FullQueues(Feed):
    has_more = True


class OthersResults:
    """A stream with endless results of other senders."""

    keep = 0.0

    def entries(self) -> Iterator[Result]:
        while True:
            yield Result(task_id="other")

    def release(self, number: int) -> None:
        """Do nothing: all that is read counts as used."""

    def close(self) -> None:
        """Nothing is open."""


class Held:
    """A lease that no other trainer wants."""

    is_of_parent = False

    def __init__(self) -> None:
        self.report = LoopReport()

    def refuse_if_taken(self) -> None:
        """Never refuse: no other trainer has the loop."""

    def close(self) -> None:
        """Nothing is open."""


def loop_over(feed: Any, groups: GroupStream, timeout_s: float | None = None) -> Rollouts:
    """A loop; ``groups`` end a wait, too, with a timeout of their own."""
    lease: Any = Held()
    connections = LoopConnections(feed, lease, groups)
    return Rollouts(feed, connections, name="trainer", batch=2, timeout_s=timeout_s)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(sink=f"sqlite:///{tmp_path / 'results.db'}?synchronous=normal")


def test_a_batch_that_did_not_become_whole_in_time_goes_on_later(settings: Settings) -> None:
    publish(settings, records_of("g0"))
    with loop_over(Feed(2), opened(settings)) as rollouts:
        with pytest.raises(ResultTimeout, match="1 are out"):
            next(iter(rollouts))
        state = rollouts.state_dict()
        assert (state["over"], state["groups"]["used"]) == (0, [])
        publish(settings, records_of("g1"))
        batch = next(iter(rollouts))
        assert [group.group_id for group in batch.groups] == ["g0", "g1"]
        state = rollouts.state_dict()
        assert (state["over"], state["groups"]["used"]) == (2, ["g0", "g1"])


@pytest.mark.parametrize("feed", [Feed(1), FullQueues(0)], ids=["others' results", "full queues"])
def test_others_do_not_keep_a_loop_from_its_timeout(feed: Any) -> None:
    stream: Any = OthersResults()
    with loop_over(feed, GroupStream(stream), timeout_s=0.05) as rollouts:
        for _ in range(2):
            with pytest.raises(ResultTimeout):
                next(rollouts.groups())

"""Groups on every sink: each is read whole, and once over all sessions of a trainer."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from agentpipe import GroupStream
from agentpipe.core.groups import GroupEnd
from agentpipe.core.result import Result
from agentpipe.sinks.base import Record
from tests.conformance.pace import PACE

if TYPE_CHECKING:
    from agentpipe import RolloutGroup
    from agentpipe.settings import Settings
    from tests.conformance.conftest import OpenSink

NAMES = [f"g{number:02}" for number in range(20)]
SIZE, SESSION, WINDOW = 3, 6, 8


def records_of(name: str) -> list[Record]:
    members = [f"{name}/{index}" for index in range(SIZE)]
    results = [
        Result(
            task_id=task_id,
            group_id=name,
            sample_index=index,
            group_size=SIZE,
            group_need=SIZE,
            reward=float(index % 2),
            reward_trustworthy=True,
        )
        for index, task_id in enumerate(members)
    ]
    found = [Record(it.task_id, orjson.dumps(it.to_dict())) for it in results]
    return [*found, Record(name, GroupEnd(name, "complete", SIZE, tuple(members)).encode())]


def overlapping() -> list[Record]:
    """Records of all groups: each group keeps its order, and neighbouring groups interleave."""
    chance, queues, found = random.Random(7), [records_of(name) for name in NAMES], list[Record]()
    while queues:
        queue = chance.choice(queues[: WINDOW // 2])
        found.append(queue.pop(0))
        queues = [each for each in queues if each]
    return found


def session(
    settings: Settings, number: int, state: dict[str, Any] | None, *, saves: bool
) -> tuple[list[RolloutGroup], dict[str, Any] | None]:
    """The groups that a trainer uses before it stops or fails in the next group, and its state."""
    found: list[RolloutGroup] = []
    with GroupStream.open(settings, group="trainer", timeout_s=PACE.quiet_s) as stream:
        if state is not None:
            stream.load_state_dict(state)
        for group in stream:
            if len(found) == number:
                break
            found.append(group)
            state = stream.state_dict() if saves else None
    return found, state


@pytest.mark.race
def test_with_states_each_group_is_used_once(
    sink_settings: Settings, open_another_sink: OpenSink
) -> None:
    open_another_sink().publish(overlapping())
    used: list[RolloutGroup] = []
    state: dict[str, Any] | None = None
    while len(used) < len(NAMES):
        found, state = session(sink_settings, SESSION, state, saves=True)
        assert found
        used += found
    assert sorted(group.group_id for group in used) == NAMES
    assert all([it.sample_index for it in group.results] == [0, 1, 2] for group in used)


@pytest.mark.race
@pytest.mark.needs("remembers_reads")
def test_without_states_few_groups_come_again(
    sink_settings: Settings, open_another_sink: OpenSink
) -> None:
    open_another_sink().publish(overlapping())
    used: list[str] = []
    sessions = 0
    while set(used) < set(NAMES):
        found, _ = session(sink_settings, SESSION, None, saves=False)
        assert found
        used += [group.group_id for group in found]
        sessions += 1
    assert len(used) - len(NAMES) <= sessions * WINDOW // 2
    with GroupStream.open(sink_settings, group="trainer", timeout_s=PACE.quiet_s) as stream:
        again = [group.group_id for group in stream]
    assert len(again) <= WINDOW // 2

"""Groups and their rows of token ids, as workers would have published them."""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from agentpipe.core.groups import GroupEnd
from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.core.rollout import Rollout
from agentpipe.core.run_names import run_of
from agentpipe.core.token_rows import Turn
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record

if TYPE_CHECKING:
    from agentpipe.settings import Settings

SIZE = 3
# The second run of each group does not continue its row: it has two segments.
TURNS = (
    [Turn([1], [2], [-1.0])],
    [Turn([1], [3], [-0.5]), Turn([7, 8], [9], [-2.0])],
    [Turn([1], [4], [-0.25])],
)
ROWS = 4


def names(number: int) -> list[str]:
    return [f"g{index:03}" for index in range(number)]


def rollout_of(index: int) -> Rollout:
    rollout = Rollout(policy_version=7)
    for turn in TURNS[index]:
        rollout.add(turn, engine="vllm", model="m")
    return rollout


def member(group: str, index: int, *, flat: bool = False) -> Record:
    result = Result(
        task_id=f"{group}/{index}",
        run=run_of(group),
        group_id=group,
        sample_index=index,
        group_size=SIZE,
        group_need=SIZE,
        reward=0.0 if flat else float(index),
        reward_trustworthy=True,
        rollout=rollout_of(index).to_dict("stop"),
    )
    return Record(result.task_id, result.encode(Redactor(())))


def records_of(group: str, *, flat: bool = False) -> list[Record]:
    members = tuple(f"{group}/{index}" for index in range(SIZE))
    end = Record(group, GroupEnd(group, "complete", SIZE, members, (7, 7)).encode())
    return [*(member(group, index, flat=flat) for index in range(SIZE)), end]


def publish_groups(settings: Settings, *groups: str, seed: int = 1, flat: bool = False) -> None:
    """Publish their records in random order, as concurrent workers do."""
    records = [record for group in groups for record in records_of(group, flat=flat)]
    random.Random(seed).shuffle(records)
    sink = open_sink(settings)
    sink.publish(records)
    sink.close()

"""A trainer that resumes from a checkpoint finds what an earlier trainer sent."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.errors import ResultTimeout
from agentpipe.sending.sent import Sent
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.training.group_stream import GroupStream
from agentpipe.training.loop_connections import LoopConnections
from agentpipe.training.loop_lease import LoopLease
from agentpipe.trl import GrpoRollouts
from tests.torch.groups import SIZE, records_of

if TYPE_CHECKING:
    from pathlib import Path


class Sends:
    """A dispatcher that records the groups it is given."""

    def __init__(self) -> None:
        self.groups: list[str] = []

    def send_group_batches(self, _collection: str, tasks: list[Any], *_: Any, **__: Any) -> Any:
        self.groups += (sent := [task["task_id"] for task in tasks])
        yield Sent(task_ids=tuple(sent))

    def close(self) -> None:
        pass


def settings_in(folder: Path) -> Settings:
    sink = f"sqlite:///{folder}/results.db?synchronous=normal"
    return Settings(broker=f"sqlite:///{folder}/broker.db?synchronous=normal", sink=sink)


def opened(settings: Settings, prefix: str, sends: Sends) -> GrpoRollouts:
    groups = GroupStream.open(
        settings, group="trainer", prefix=prefix, timeout_s=0.2, min_good=0, keep=lambda _: True
    )
    dispatcher: Any = sends
    options: dict[str, Any] = {"spares": 0, "repairs": 0, "vary_seed": True}
    lease = LoopLease.open("trainer", settings)
    place = {"collection": "agents", "prefix": prefix}
    connections = LoopConnections(dispatcher, lease, groups)
    return GrpoRollouts(connections, task_of=task_of, **place, **options)


def task_of(prompt: str) -> dict[str, str]:
    return {"question": prompt}


def at_step(step: int) -> Any:
    return SimpleNamespace(
        model=SimpleNamespace(training=True),
        num_generations=SIZE,
        num_generations_eval=SIZE,
        state=SimpleNamespace(global_step=step),
        processing_class=SimpleNamespace(pad_token_id=0),
    )


@pytest.mark.parametrize("name", ["first", "first.t1.second", "e2.t3.4"])
def test_groups_of_a_later_step_that_come_first_are_kept_for_it(tmp_path: Path, name: str) -> None:
    settings = settings_in(tmp_path)
    sends, prompts = Sends(), ["question"] * SIZE
    with opened(settings, f"{name}/0.", sends) as killed:
        for step in (4, 5):
            with pytest.raises(ResultTimeout):
                killed(prompts, at_step(step))
    with closing(open_sink(settings)) as sink:
        for group in reversed(sends.groups):
            sink.publish(records_of(group))
    with opened(settings, f"{name}/0.", sends) as rollouts:
        for step, group in zip((4, 5), sends.groups, strict=False):
            found = rollouts(prompts, at_step(step))["agent_task_id"]
            assert found == [f"{group}/{index}" for index in range(SIZE)]


def test_a_run_without_token_ids_is_a_masked_row(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """From a worker whose older collection file does not require token ids."""
    settings, sends = settings_in(tmp_path), Sends()
    with opened(settings, "first/0.", sends) as rollouts, closing(open_sink(settings)) as sink:
        with pytest.raises(ResultTimeout):
            rollouts(["question"] * SIZE, at_step(4))
        (group,) = sends.groups
        again = f"first/0.t000004.1.0-{group.rpartition('-')[2]}"
        bare, *others = records_of(again)
        result = replace(Result.decode(bare.payload), rollout=None)
        sink.publish([Record(bare.task_id, result.encode(Redactor(()))), *others])
        found = rollouts(["question"] * SIZE, at_step(4))
        assert found["agent_reward"] == [1.0, 2.0, None]
        assert found["env_mask"][2] == [0]
        assert found["agent_task_id"][2] == f"{again}/0"
        assert rollouts.counts == {"good": 2, "masked": 1, "segments": 1}
    assert "1 of 3 rows are masked: no reward, or no exact token ids" in caplog.text


def test_a_call_that_was_late_goes_on(tmp_path: Path) -> None:
    settings = settings_in(tmp_path)
    sends, prompts = Sends(), ["question"] * SIZE
    with opened(settings, "first/0.", sends) as rollouts, closing(open_sink(settings)) as sink:
        with pytest.raises(ResultTimeout):
            rollouts(prompts, at_step(4))
        sink.publish(records_of("first/0.t000004.1.0-" + sends.groups[0].rpartition("-")[2]))
        assert len(rollouts(prompts, at_step(4))["agent_task_id"]) == SIZE

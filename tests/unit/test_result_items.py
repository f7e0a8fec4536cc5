"""A dataset's results over several epochs of one process."""

from __future__ import annotations

from itertools import islice
from typing import TYPE_CHECKING

from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record
from agentpipe.training.reading import Reading
from agentpipe.training.result_items import ResultItems
from agentpipe.training.shard import WHOLE

if TYPE_CHECKING:
    from pathlib import Path


def test_an_epoch_that_was_left_is_not_given_again_but_for_the_item_in_use(tmp_path: Path) -> None:
    settings = Settings(sink=f"sqlite:///{tmp_path / 'results.db'}?synchronous=normal")
    sink = open_sink(settings)
    names = [f"t{number}" for number in range(6)]
    sink.publish([Record(it, Result(task_id=it).encode(Redactor(()))) for it in names])
    sink.close()
    reading = Reading(settings, "trainer", "beginning", 0.05, rows=False, lag=0, keep_states=8)
    items = ResultItems(reading, "group")
    items.state_dict(WHOLE)
    given = [[it[0] for it in islice(items.epoch(WHOLE, None), most)] for most in (3, 3, 9)]
    assert given == [
        ["task t0", "task t1", "task t2"],
        ["task t2", "task t3", "task t4"],
        ["task t4", "task t5"],
    ]
    assert items.state_dict(WHOLE)["used"] == names

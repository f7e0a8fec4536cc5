"""What a trainer's log says when no group arrives."""

from __future__ import annotations

from dataclasses import replace

from agentpipe.core.policy import PolicySpec, PolicyState
from agentpipe.training.obstacles import obstacles
from tests.unit.fleets import agent, fleet, worker

PAUSED = PolicyState(PolicySpec("main", ("http://h/v1",)), 7, paused=True)


def test_a_loop_says_what_somebody_has_to_end() -> None:
    queue = agent()
    assert queue.collection
    well = fleet(queue, workers=(worker(),))
    assert list(obstacles(well, queue.collection, "main")) == []
    held = replace(well, policies=(PAUSED,))
    assert list(obstacles(held, queue.collection, None)) == []
    (said,) = obstacles(held, queue.collection, "main")
    assert said.startswith("its policy 'main' is paused: give its servers the weights")
    limited = replace(PAUSED, spec=replace(PAUSED.spec, batch=3, max_staleness=1), paused=False)
    full = replace(limited, accepted=27)
    (said,) = obstacles(replace(well, policies=(full,)), queue.collection, "main")
    assert "has version 7, by which no more groups may begin, and none runs" in said
    assert "its `batch` of 3" in said
    for goes_on in (replace(full, running=1), replace(full, version=8)):
        assert list(obstacles(replace(well, policies=(goes_on,)), queue.collection, "main")) == []
    broken = replace(queue, paused=True, pause_reason="25 runs failed")
    (said,) = obstacles(fleet(broken, workers=(worker(),)), queue.collection, None)
    assert "is paused: 25 runs failed; mend the cause, then `agentpipe resume" in said
    other = replace(queue, queue="other")
    assert list(obstacles(fleet(broken, other, workers=(worker(),)), queue.collection, None)) == []
    (said,) = obstacles(fleet(queue, workers=(worker(slots=0),)), queue.collection, None)
    assert said.startswith("no worker is running")

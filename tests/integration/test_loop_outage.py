"""A trainer's loop during a broker outage: it waits, then continues exactly where it was."""

from __future__ import annotations

import time
from functools import partial
from typing import TYPE_CHECKING

import pytest

from agentpipe import Settings
from brokers.server_redis import RedisServer
from tests.integration.trainers import (
    assert_each_once,
    end_of,
    reach,
    trainer,
    working,
    write_project,
)
from tests.support import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.servers import OwnServer

# Longer than a request's timeout, and than all prefetched groups take to run.
OUTAGE_S = 12.0
AWAY, BACK = "the broker does not answer, the ", "the broker answers again"
# Each of them waits for itself, and says so once an outage: what changes the policy, and what sends
# groups. A batch that was whole before the outage lets the trainer reach the other one in it.
WAITING = tuple(f"{AWAY}{name} waits for it" for name in ("trainer", "loop"))
# Before a policy change, and before a group is sent.
POINTS = ("used-0", "saved-1")


@pytest.mark.long
def test_a_loop_waits_for_a_broker_that_is_away_and_sends_nothing_twice(
    own_server: OwnServer, tmp_path: Path
) -> None:
    write_project(tmp_path, with_policy=True)
    server = own_server(RedisServer)
    settings = Settings(broker=server.url, sink=f"sqlite:///{tmp_path / 'results.db'}")
    for point in POINTS:
        (tmp_path / f"meet-{point}").touch()
    with working(settings, tmp_path):
        process = trainer(settings, tmp_path)
        for point in POINTS:
            reach(process, tmp_path, point)
            server.stop()
            noticed = said(tmp_path, AWAY) + 1
            (tmp_path / f"go-{point}").touch()
            wait_until(partial(has_said, tmp_path, AWAY, noticed), 60, "it has noticed")
            wait_until(partial(is_past, time.monotonic() + OUTAGE_S), 2 * OUTAGE_S, "the outage")
            assert process.poll() is None
            server.start()
        end = end_of(process)
    assert_each_once(end["used"], tmp_path)
    assert said(tmp_path, AWAY) == said(tmp_path, BACK) >= len(POINTS)
    assert all(said(tmp_path, waits) <= len(POINTS) for waits in WAITING)
    assert not said(tmp_path, "Traceback")


def has_said(folder: Path, words: str, times: int) -> bool:
    return said(folder, words) >= times


def is_past(moment: float) -> bool:
    return time.monotonic() > moment


def said(folder: Path, words: str) -> int:
    """How many times the trainer logged ``words``."""
    return (folder / "trainer.log").read_text().count(words)

"""A trainer's loop resumes from its state at a broker that has lost its data."""

from __future__ import annotations

import json
import logging
from typing import TYPE_CHECKING, Any

import pytest
import redis

from agentpipe import ResultTimeout, Rollouts, Settings
from agentpipe.training import wait_warnings
from brokers.server_redis import RedisServer
from tests.integration.trainers import JUDGED, assert_each_once, working, write_project

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from tests.servers import OwnServer

pytestmark = pytest.mark.server
PROMPTS, TRIES = 24, 300


class Loader(list[dict[str, Any]]):
    """A prompt loader with a state: its position."""

    at = 0

    def __iter__(self) -> Iterator[dict[str, Any]]:
        for number in range(self.at, len(self)):
            self.at = number + 1
            yield self[number]

    def state_dict(self) -> int:
        return self.at

    def load_state_dict(self, state: int) -> None:
        self.at = state


@pytest.mark.parametrize("kind", [list, pytest.param(Loader, marks=pytest.mark.long)])
def test_groups_that_were_out_when_the_broker_lost_its_data_are_sent_again(
    own_server: OwnServer,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    kind: type[list[dict[str, Any]]],
) -> None:
    monkeypatch.setattr(wait_warnings, "SAID_AFTER_S", 0.5)
    write_project(tmp_path)
    server = own_server(RedisServer)
    settings = Settings(broker=server.url, sink=f"sqlite:///{tmp_path / 'results.db'}")

    def opened() -> Rollouts:
        prompts = kind({"question": str(number), "evaluators": JUDGED} for number in range(PROMPTS))
        path = tmp_path / "mixed.yaml"
        return Rollouts.open(path, prompts, n=4, batch=3, settings=settings, timeout_s=0.5)

    with opened() as rollouts:  # No worker runs.
        with pytest.raises(ResultTimeout):
            next(rollouts.groups())
        state = json.loads(json.dumps(rollouts.state_dict()))
    with redis.Redis.from_url(server.url) as raw:
        raw.flushall()
    with working(settings, tmp_path), opened() as rollouts, caplog.at_level(logging.WARNING):
        rollouts.load_state_dict(state)
        used = list(given(rollouts))
    assert_each_once(used, tmp_path)
    assert "has lost 6 groups that were out: they are sent again" in caplog.text


def given(rollouts: Rollouts) -> Iterator[str]:
    """Ids of the groups, over several waits that can time out."""
    groups = rollouts.groups()
    for _ in range(TRIES):
        try:
            yield next(groups).group_id
        except ResultTimeout:
            groups = rollouts.groups()
        except StopIteration:
            return
    pytest.fail("no group came")

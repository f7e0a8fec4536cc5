"""Probes: when they succeed, and when they fail."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

from agentpipe.operations.probes import is_live, is_ready
from agentpipe.settings import OutboxLimits
from tests.unit.fleets import fleet

if TYPE_CHECKING:
    from pathlib import Path


def test_a_heartbeat_is_good_while_it_is_young(tmp_path: Path) -> None:
    file = tmp_path / "beat"
    assert not is_live(file, 60).good
    file.touch()
    assert is_live(file, 60).good
    hour_ago = time.time() - 3600
    os.utime(file, (hour_ago, hour_ago))
    assert not is_live(file, 60).good
    assert "1 h" in is_live(file, 60).found or "60 min" in is_live(file, 60).found


def test_workers_are_ready_while_the_outbox_has_room() -> None:
    limits = OutboxLimits(10, 1_000)
    assert is_ready(fleet(outbox=9, outbox_bytes=999), limits).good
    assert not is_ready(fleet(outbox=10, outbox_bytes=0), limits).good
    assert not is_ready(fleet(outbox=1, outbox_bytes=1_000), limits).good
    assert is_ready(fleet(outbox=None, outbox_bytes=None), limits).good

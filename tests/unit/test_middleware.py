"""How many slots a worker has of itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.config.collection import load
from agentpipe.sending.broker import sender_broker
from agentpipe.settings import Settings
from agentpipe.worker.middleware import MAX_SLOTS, _slots_for

if TYPE_CHECKING:
    from pathlib import Path

COLLECTION = """\
kind: collection
spec:
  name: crew
  config: ./agent.yaml
"""


@pytest.mark.parametrize(
    ("spec", "slots"),
    [
        ("number: 3", 3),
        ("number: 3\n  concurrency: 2", 6),
        ("number: 3\n  context: [{concurrency: 2}, {}]", 5),
        ("number: 3\n  context: [{concurrency: 9}]", 3),
        ("number: 2000", MAX_SLOTS),
    ],
)
def test_a_worker_has_a_slot_for_each_run_that_its_limits_allow(
    tmp_path: Path, spec: str, slots: int
) -> None:
    (tmp_path / "agent.yaml").touch()
    file = tmp_path / "collection.yaml"
    file.write_text(f"{COLLECTION}  {spec}\n")
    settings = Settings(broker=f"sqlite:///{tmp_path / 'broker.db'}?synchronous=normal")
    broker = sender_broker(load(file), settings)
    assert _slots_for(broker) == slots
    broker.close()

"""A worker's default number of slots."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import dramatiq
import pytest

from agentpipe.config.collection import load
from agentpipe.sending.broker import sender_broker
from agentpipe.settings import Settings
from agentpipe.worker.running.slots import DRAMATIQ_THREADS, MAX_SLOTS, slots_for

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
    assert slots_for(broker, DRAMATIQ_THREADS) == slots
    broker.close()


@dataclass(frozen=True)
class Case:
    """Actors with these limits, and the slots of a worker with the given number of threads."""

    slots: int
    limits: tuple[dict[str, int], ...]
    threads: int = DRAMATIQ_THREADS
    argv: tuple[str, ...] = ()


@pytest.mark.parametrize(
    "case",
    [
        Case(DRAMATIQ_THREADS, ({},)),
        Case(2, ({"concurrency": 2},)),
        Case(DRAMATIQ_THREADS, ({"concurrency": 2}, {})),
        Case(3, ({},), threads=3),
        Case(8, ({"concurrency": 2},), argv=("--threads", "8")),
        Case(8, ({"concurrency": 2},), argv=("-t8",)),
    ],
    ids=str,
)
def test_plain_actors_have_the_threads_that_dramatiq_was_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: Case
) -> None:
    monkeypatch.setattr("sys.argv", ["dramatiq", "agentpipe.actors", *case.argv])
    settings = Settings(broker=f"sqlite:///{tmp_path / 'broker.db'}?synchronous=normal")
    broker = sender_broker([], settings)
    for number, limits in enumerate(case.limits):
        name = f"plain_{number}"
        options: dict[str, Any] = {"broker": broker, "queue_name": name, **limits}
        dramatiq.actor(actor_name=name, **options)(lambda: None)
    assert slots_for(broker, case.threads) == case.slots
    broker.close()

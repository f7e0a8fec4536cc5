"""Which configs of a collection differ, how they are reported, and config fingerprints."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.brokers.records import Source
from agentpipe.brokers.statistics import Declared, Stats, WorkerSeen
from agentpipe.config.collection import load
from agentpipe.worker.claims import configs
from agentpipe.worker.claims.configs import configs_in_use, conflicts_at_start, sentences
from agentpipe.worker.claims.heartbeat import Heartbeat

if TYPE_CHECKING:
    from pathlib import Path

    from agentpipe.brokers.statistics import Side

EMPTY = Stats(
    accepted=0, waiting=0, delayed=0, running=0, outbox=0, outbox_bytes=0, delivered=0, dead=0
)
REMEDY = (
    "restart the workers with the file that is meant; two projects on one broker need a "
    "?prefix= each in its URL (SQLite: a file each)"
)


def worker(name: str, fingerprint: str, place: str = "h:/c.yaml", changed: int = 1) -> WorkerSeen:
    report = Heartbeat(configs={"crew": (fingerprint, place, changed)}).encode()
    return WorkerSeen(name, "h", 1, 1, 0, 0.1, report)


def declared(
    by: Side, fingerprint: str, place: str = "h:/c.yaml", changed: int = 1
) -> tuple[Declared, ...]:
    return (Declared("crew", by, Source(fingerprint, place, changed, changed, by == "worker")),)


def said(stats: Stats) -> list[str]:
    return sentences(configs_in_use(stats))


def test_a_config_is_compared_only_with_others_of_its_collection(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Regression: `check` took minutes with 1,000 collections, and `status` and workers seconds."""
    compared: list[int] = []

    def count(_: Any, others: list[Any]) -> bool:
        compared.append(len(others))
        return False

    monkeypatch.setattr(configs, "_is_replaced", count)
    source = Source("f1", "h:/c.yaml", 1, 1)
    many = tuple(Declared(f"c{number}", "sender", source) for number in range(50))
    assert len(configs_in_use(replace(EMPTY, declared=many))) == 50
    assert compared == [1] * 50


def test_workers_of_one_config_are_one() -> None:
    stats = replace(
        EMPTY, workers=(worker("a", "f1"), worker("b", "f1")), declared=declared("sender", "f1")
    )
    (only,) = configs_in_use(stats)
    assert (only.sender, only.workers, only.differs) == (True, ("a", "b"), False)
    assert said(stats) == []


def test_two_workers_of_different_configs_are_named_with_both_places() -> None:
    workers = (worker("a", "f1", "one:/c.yaml"), worker("b", "f2", "two:/c.yaml"))
    assert said(replace(EMPTY, workers=workers)) == [
        (
            "collection crew has 2 configs: f1 of one:/c.yaml (worker a), and "
            f"f2 of two:/c.yaml (worker b); {REMEDY}"
        )
    ]


def test_a_worker_differs_from_the_last_sender_elsewhere() -> None:
    stats = replace(
        EMPTY,
        workers=(worker("a", "f1", "one:/c.yaml", changed=9),),
        declared=declared("sender", "f2", "two:/c.yaml"),
    )
    assert said(stats) == [
        (
            "collection crew has 2 configs: f2 of two:/c.yaml (its last sender), and "
            f"f1 of one:/c.yaml (worker a); {REMEDY}"
        )
    ]


def test_an_edited_file_with_restarted_workers_is_normal() -> None:
    edited = replace(
        EMPTY, workers=(worker("a", "f2", changed=2),), declared=declared("sender", "f1")
    )
    assert said(edited) == []
    not_restarted = replace(
        EMPTY, workers=(worker("a", "f1"),), declared=declared("sender", "f2", changed=2)
    )
    assert len(said(not_restarted)) == 1


def test_what_is_unknown_differs_from_nothing() -> None:
    stats = replace(EMPTY, workers=(worker("a", "f1"),), declared=declared("sender", "", "x:/y"))
    assert said(stats) == []
    silent = WorkerSeen("old", "h", 1, 1, 0, 0.1, b"")
    assert said(replace(EMPTY, workers=(silent, worker("a", "f1")))) == []


def test_a_worker_that_starts_hears_of_one_that_has_not_reported_yet() -> None:
    silent = WorkerSeen("new", "h", 1, 1, 0, 0.1, b"")
    stats = replace(EMPTY, workers=(silent,), declared=declared("worker", "f1", "one:/c.yaml"))
    own = {"crew": ("f2", "two:/c.yaml", 1), "other": ("f3", "two:/c.yaml", 1)}
    (sentence,) = conflicts_at_start(stats, own, "w")
    assert "f1 of one:/c.yaml (worker new), and f2 of two:/c.yaml (worker w)" in sentence
    assert conflicts_at_start(replace(stats, workers=()), own, "w") == []


AGENT = {"kind": "agent", "spec": {"name": "a", "type": "python", "config": {"class": "m:A"}}}


def fingerprint(folder: Path, *, agent: str = yaml.safe_dump(AGENT), **spec: object) -> str:
    (folder / "agent.yaml").write_text(agent)
    document = {"kind": "collection", "spec": {"name": "c", "config": "agent.yaml", **spec}}
    (folder / "collection.yaml").write_text(yaml.safe_dump(document))
    (collection,) = load(folder / "collection.yaml")
    return collection.fingerprint


@pytest.mark.parametrize(
    "spec",
    [
        {"number": 9, "max_queue_size": 3, "concurrency": 7, "breaker": 0, "strict_config": True},
        {"max_cooldown_s": 9.0},
        {"budget": {"usd": 9.0}},
    ],
)
def test_the_size_of_a_fleet_changes_no_fingerprint(tmp_path: Path, spec: dict[str, Any]) -> None:
    assert fingerprint(tmp_path, **spec) == fingerprint(tmp_path) != ""


@pytest.mark.parametrize(
    "spec",
    [
        {"time_limit": 5},
        {"isolation": "thread"},
        {"context": [{"env": {"KEY": "${A}"}}]},
        {"agent": yaml.safe_dump(AGENT).replace("m:A", "m:B")},
    ],
)
def test_what_decides_about_an_answer_changes_it(tmp_path: Path, spec: dict[str, str]) -> None:
    assert fingerprint(tmp_path, **spec) != fingerprint(tmp_path)


def test_neither_comments_nor_values_of_credentials_are_in_it(tmp_path: Path) -> None:
    commented = f"# a note\n{yaml.safe_dump(AGENT)}"
    assert fingerprint(tmp_path, agent=commented) == fingerprint(tmp_path)
    keys = [fingerprint(tmp_path, context=[{"env": {"KEY": value}}]) for value in ("s1", "s2")]
    assert keys[0] == keys[1]
    named = [fingerprint(tmp_path, context=[{"env": {"KEY": value}}]) for value in ("${A}", "${B}")]
    assert named[0] != named[1]


def test_without_an_agent_config_it_is_unknown(tmp_path: Path) -> None:
    fingerprint(tmp_path)
    (collection,) = load(tmp_path / "collection.yaml")
    (tmp_path / "agent.yaml").unlink()
    assert collection.fingerprint == ""

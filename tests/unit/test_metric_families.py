"""A snapshot as metrics: names, missing values, and what the dashboard and alerts depend on."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path
from shutil import which
from subprocess import run
from typing import Any

import pytest
import yaml
from prometheus_client import generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from agentpipe.brokers.measures import (
    BUCKETS_S,
    WIDTH,
    Measures,
    added,
    count_settlement,
    pack,
    unpack,
)
from agentpipe.brokers.records import Claim, Settlement
from agentpipe.brokers.statistics import GroupCounts, QueueDepth, Stats, WorkerSeen
from agentpipe.core.loop_holds import LoopState
from agentpipe.core.policy import PolicySpec, PolicyState
from agentpipe.core.usage import Tokens
from agentpipe.metrics.server import registry_of
from agentpipe.worker.claims.heartbeat import Heartbeat

DOCS = Path(__file__).parents[2] / "docs"
DEPTH = QueueDepth("crew_0", "crew", 3, 1, 2, limit=10, concurrency=2, cooldown_s=0.0)
CLAIM = Claim("a", "crew_0", b"", "w", 1)


def measures_of(*settlements: Settlement) -> Measures:
    counts: dict[int, float] = {}
    for each in settlements:
        count_settlement(counts, each, run_s=2.0, waited_s=90.0)
    return Measures.of(added([0.0] * WIDTH, counts))


STATS = Stats(
    accepted=9,
    waiting=3,
    delayed=1,
    running=2,
    outbox=4,
    outbox_bytes=9,
    delivered=0,
    dead=1,
    queues=(DEPTH, replace(DEPTH, queue="crew_1", cooldown_s=7.5, pause_reason="x", paused=True)),
    workers=(WorkerSeen("w", "h", 1, 4, 3, 0.1, Heartbeat(lag_s=0.25).encode()),),
    undelivered_s=1.5,
    loops=(LoopState("first", "token", 2.5),),
    policies=(
        PolicyState(
            PolicySpec("main", ("http://h",), batch=64, max_staleness=1),
            7,
            accepted=500,
            running=64,
        ),
        PolicyState(PolicySpec("free", ("http://h",)), 2),
    ),
    groups=GroupCounts(9, 3, 2, 1, records=1, counted=24, wasted=5, flat=2, stale=1),
    measures={
        "crew": measures_of(
            Settlement(CLAIM, "complete", b"", "ok", usd=0.5, tokens_by_kind=Tokens(5, 2, 1)),
            Settlement(CLAIM, "bury", b"", "infra_error"),
            Settlement(CLAIM, "retry"),
        )
    },
)


# The OpenMetrics parser and writer have no types.
READERS: tuple[Any, Any] = (read_plain, read_open)
WRITERS: tuple[Any, Any] = (generate_latest, openmetrics.generate_latest)


def samples_of(stats: Stats | None) -> dict[str, float]:
    """Values by name and labels as Prometheus reads them; the same in both formats."""
    plain, later = (_read(stats, it) for it in (False, True))
    assert plain == later
    return plain


def _read(stats: Stats | None, is_open: bool) -> dict[str, float]:  # noqa: FBT001 - also an index
    registry = registry_of(lambda: stats, openmetrics=is_open)
    families = READERS[is_open](WRITERS[is_open](registry).decode())
    return {
        f"{it.name}{sorted(it.labels.values())}": it.value
        for each in families
        for it in each.samples
    }


def test_each_metric_has_its_value() -> None:
    found = samples_of(STATS)
    expected = {
        "agentpipe_up[]": 1,
        "agentpipe_tasks['crew', 'waiting']": 6,
        "agentpipe_tasks['crew', 'delayed']": 2,
        "agentpipe_tasks['crew', 'running']": 4,
        "agentpipe_queue_limit['crew']": 20,
        "agentpipe_cooldown_seconds['crew']": 7.5,
        "agentpipe_paused['crew']": 1,
        "agentpipe_breaker_open['crew']": 1,
        "agentpipe_outbox_results[]": 4,
        "agentpipe_outbox_age_seconds[]": 1.5,
        "agentpipe_dead_letters[]": 1,
        "agentpipe_workers[]": 1,
        "agentpipe_slots['busy']": 3,
        "agentpipe_slots['free']": 1,
        "agentpipe_loop_lag_seconds[]": 0.25,
        "agentpipe_tasks_total['crew', 'ok']": 1,
        "agentpipe_tasks_total['crew', 'infra_error']": 1,
        "agentpipe_tokens_total['crew', 'input']": 5,
        "agentpipe_tokens_total['crew', 'output']": 2,
        "agentpipe_tokens_total['cached', 'crew']": 1,
        "agentpipe_cost_usd_total['crew']": 0.5,
        "agentpipe_groups_total['complete']": 3,
        "agentpipe_groups_total['short']": 2,
        "agentpipe_groups_total['cancelled']": 1,
        "agentpipe_groups_open[]": 9,
        "agentpipe_group_members_total['counted']": 24,
        "agentpipe_group_members_total['wasted']": 5,
        "agentpipe_groups_unused_total['flat']": 2,
        "agentpipe_groups_unused_total['stale']": 1,
        "agentpipe_run_duration_seconds_sum['crew']": 6,
        "agentpipe_run_duration_seconds_bucket['1.0', 'crew']": 0,
        "agentpipe_run_duration_seconds_bucket['2.5', 'crew']": 3,
        "agentpipe_wait_duration_seconds_count['crew']": 3,
        "agentpipe_wait_duration_seconds_bucket['60.0', 'crew']": 0,
        "agentpipe_policy_version['main']": 7,
        "agentpipe_staleness['main']": 1,
        "agentpipe_loop_silent_seconds['first']": 2.5,
        "dramatiq_messages_total['crew', 'crew']": 3,
        "dramatiq_message_errors_total['crew', 'crew']": 2,
        "dramatiq_message_retries_total['crew', 'crew']": 1,
        "dramatiq_message_rejects_total['crew', 'crew']": 1,
        "dramatiq_messages_inprogress['crew', 'crew']": 4,
        "dramatiq_message_duration_milliseconds_sum['crew', 'crew']": 6000,
        "dramatiq_message_duration_milliseconds_bucket['2500.0', 'crew', 'crew']": 3,
    }
    assert {name: found.get(name) for name in expected} == expected


def test_without_a_broker_there_is_one_metric() -> None:
    assert samples_of(None) == {"agentpipe_up[]": 0}


def test_what_a_store_does_not_know_is_absent() -> None:
    unknown = replace(DEPTH, delayed=None, running=None, cooldown_s=None)
    stats = replace(STATS, queues=(unknown,), measures=None, outbox=None, workers=(), dead=None)
    stats = replace(stats, groups=None, policies=(), loops=())
    names = {name.partition("[")[0] for name in samples_of(stats)}
    assert names == {
        "agentpipe_up",
        "agentpipe_tasks",
        "agentpipe_queue_limit",
        "agentpipe_paused",
        "agentpipe_breaker_open",
        "agentpipe_workers",
        "agentpipe_slots",
    }


def test_hostile_names_stay_labels() -> None:
    name = 'a"b\\c\nd} 7'
    stats = replace(STATS, queues=(replace(DEPTH, collection=name),), measures={})
    assert f"agentpipe_paused{[name]}" in samples_of(stats)


def test_measures_of_another_version_are_read() -> None:
    numbers = [float(number) for number in range(WIDTH)]
    assert unpack(pack(numbers)) == numbers
    assert unpack(pack(numbers)[:16]) == [0.0, 1.0, *[0.0] * (WIDTH - 2)]
    assert unpack(pack(numbers) + b"12345678") == numbers


@pytest.mark.parametrize(("seconds", "limit"), [(0.0, 0), (0.1, 0), (0.11, 1), (1e9, 13)])
def test_a_time_is_in_the_bucket_of_its_limit(seconds: float, limit: int) -> None:
    counts: dict[int, float] = {}
    count_settlement(counts, Settlement(CLAIM, "retry"), seconds, 0.0)
    run_s = Measures.of(added([0.0] * WIDTH, counts)).run_s
    assert (len(run_s.counts), run_s.counts[limit]) == (len(BUCKETS_S) + 1, 1)
    assert run_s.sum_s == seconds


@pytest.mark.skipif(which("promtool") is None, reason="promtool is not installed")
def test_promtool_accepts_metrics_and_alerts(tmp_path: Path) -> None:
    text = generate_latest(registry_of(lambda: STATS, openmetrics=False))
    lint = run(["promtool", "check", "metrics"], input=text, capture_output=True, check=False)
    # Other lines are about Dramatiq's own metric names, which are in milliseconds.
    ours = [line for line in lint.stderr.decode().splitlines() if line.startswith("agentpipe")]
    assert ours == []
    rules = run(
        ["promtool", "check", "rules", DOCS / "prometheus" / "alerts.yaml"],
        capture_output=True,
        check=False,
        cwd=tmp_path,
    )
    assert rules.returncode == 0, rules.stdout + rules.stderr


def _names_in(expressions: list[str]) -> set[str]:
    return {name for each in expressions for name in re.findall(r"agentpipe_\w+", each)}


def _scraped() -> set[str]:
    return {name.partition("[")[0] for name in samples_of(STATS)}


def test_the_dashboard_names_metrics_that_exist() -> None:
    board = json.loads((DOCS / "prometheus" / "dashboard.json").read_text())
    expressions = [it["expr"] for panel in board["panels"] for it in panel["targets"]]
    names = _names_in(expressions)
    assert names <= _scraped()
    assert len(names) >= 15


def test_the_alerts_name_metrics_that_exist() -> None:
    (group,) = yaml.safe_load((DOCS / "prometheus" / "alerts.yaml").read_text())["groups"]
    assert len(group["rules"]) == 6
    assert all(rule["annotations"]["summary"] for rule in group["rules"])
    assert _names_in([rule["expr"] for rule in group["rules"]]) <= _scraped()


def test_the_reference_names_each_metric() -> None:
    text = (DOCS / "reference.md").read_text()
    bases = {re.sub(r"_(bucket|sum|count)$", "", name) for name in _scraped()}
    assert {name for name in bases if f"`{name}" not in text} == set()

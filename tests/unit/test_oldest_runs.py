"""What a worker reports about its oldest runs."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from agentpipe.core.redaction import Redactor
from agentpipe.core.trace import Tracer, span
from agentpipe.worker.claims import lease_keeper
from agentpipe.worker.claims.heartbeat import Heartbeat, RunSeen
from agentpipe.worker.claims.lease_keeper import MAX_REPORTED_RUNS, oldest_runs

if TYPE_CHECKING:
    import pytest


def held(number: int, age_s: float, tracer: Tracer | None = None) -> Any:
    claim = SimpleNamespace(queue="crew_0", task_id=f"t{number}")
    return SimpleNamespace(claim=claim, started_at=time.time() - age_s, tracer=tracer)


def test_the_oldest_are_reported_and_no_more_than_a_few() -> None:
    runs = oldest_runs([held(number, 10.0 + number) for number in range(100)])
    assert [run.task_id for run in runs] == [f"t{99 - n}" for n in range(MAX_REPORTED_RUNS)]
    assert oldest_runs([held(1, 0.5)]) == []


def test_a_run_does_what_its_youngest_open_span_says() -> None:
    tracer = Tracer()
    assert tracer.activity == ""
    with tracer.root():
        assert tracer.activity == ""
        with span({"type": "llm", "config": {"model_name": "gpt"}}):
            assert tracer.activity == "llm gpt"
            with span({"type": "tool", "server": "web", "tool_name": "search"}):
                assert tracer.activity == "tool web.search"
        assert tracer.activity == "after 2 spans"


def test_secrets_in_names_are_masked_and_odd_texts_are_fit_for_json(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    secret = "sk-made-up-for-this-test"
    monkeypatch.setattr(lease_keeper, "masked", Redactor([secret]).text)
    tracer = Tracer()
    with tracer.root(), span({"tool_name": f"fetch {secret}\ud800\x1b" + "z" * 100}):
        (run,) = oldest_runs([held(1, 5.0, tracer)])
    assert secret not in run.activity
    assert "fetch " in run.activity
    assert run.activity.isprintable()
    report = Heartbeat(runs=[run]).encode()
    assert Heartbeat.decode(report).runs == (run,)


def test_a_report_of_an_older_worker_has_no_runs() -> None:
    assert Heartbeat.decode(b'{"lag_s": 0.5}') == Heartbeat(lag_s=0.5)
    assert Heartbeat.decode(b'{"runs": [{"odd": 1}]}') == Heartbeat()
    assert Heartbeat(runs=(RunSeen("q", "t", 1.0),)).runs

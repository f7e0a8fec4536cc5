"""What is said of a run, from its results or from what the broker has counted."""

from __future__ import annotations

import pytest

from agentpipe.brokers.runs import KeptRun
from agentpipe.core.result import Result
from agentpipe.operations.judging.report import summarize
from agentpipe.operations.runs import by_report, by_store


def test_results_of_no_known_config_are_not_a_config() -> None:
    """Regression: tasks that were cancelled before they ran were results of a config ``""``."""
    run = KeptRun("v1", b"{}", 3, outcomes={"ok": 1, "cancelled": 2}, configs={"aa": 1, "": 2})
    assert by_store(run).to_dict()["configs"] == {"aa": 1}


@pytest.mark.parametrize(("spent", "said"), [(0.0, None), (0.25, 0.25)])
def test_a_broker_that_counted_no_cost_knows_none(spent: float, said: float | None) -> None:
    run = KeptRun("v1", b"{}", 1, outcomes={"ok": 1}, usd=spent)
    assert by_store(run).to_dict()["usd"] == said


@pytest.mark.parametrize(
    ("usages", "said"),
    [
        ([{}, {"input_tokens": 5}], None),
        ([{"usd": 0.0}], 0.0),
        ([{"usd": 0.25}, {"input_tokens": 5}], 0.25),
    ],
)
def test_a_cost_that_is_unknown_is_not_free(
    usages: list[dict[str, float]], said: float | None
) -> None:
    results = [Result(task_id=f"v1/{n}", run="v1", usage=it) for n, it in enumerate(usages)]
    report, _ = summarize(results)
    assert by_report(KeptRun("v1", b"{}", 1), report, 1).to_dict()["usd"] == said

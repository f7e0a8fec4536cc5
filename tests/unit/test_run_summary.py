"""What is said of a run that only the broker has counted."""

from __future__ import annotations

from agentpipe.brokers.runs import KeptRun
from agentpipe.operations.runs import by_store


def test_results_of_no_known_config_are_not_a_config() -> None:
    """Regression: tasks that were cancelled before they ran were results of a config ``""``."""
    run = KeptRun("v1", b"{}", 3, outcomes={"ok": 1, "cancelled": 2}, configs={"aa": 1, "": 2})
    assert by_store(run).to_dict()["configs"] == {"aa": 1}

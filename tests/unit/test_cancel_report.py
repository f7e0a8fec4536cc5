"""What `cancel` and `top` say of cancelled tasks."""

from __future__ import annotations

from agentpipe.operations.cancel import CancelReport


def test_only_running_tasks_are_said_to_be_signalled() -> None:
    report = CancelReport(("a",), ("b", "c")) + CancelReport((), ("d",), ("e",), ("f",))
    assert report.sentence == "1 cancelled, 3 running ones signalled"
    assert report.to_dict() == {
        "cancelled": ["a"],
        "told": ["b", "c", "d"],
        "settled": ["e"],
        "unknown": ["f"],
    }


def test_tasks_that_only_wait_are_not_said_to_be_signalled() -> None:
    """Regression: RabbitMQ marks a task that waits, and `cancel` counted it as a running one."""
    report = CancelReport(told=("a", "b"), marked=("b",), is_unread=True) + CancelReport()
    told = "those that wait are answered at their turn"
    assert report.sentence == f"0 cancelled, 1 running ones signalled; {told}"
    assert report.to_dict()["told"] == ["a", "b"]

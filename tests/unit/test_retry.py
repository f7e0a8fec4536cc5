"""Which tasks of a run are sent again, and with which ids and content."""

from __future__ import annotations

from typing import Any

import orjson
import pytest

from agentpipe.brokers.dead_letter import DeadLetter
from agentpipe.core.result import Result
from agentpipe.core.task import Task
from agentpipe.errors import ConfigError, TaskError
from agentpipe.operations.retry import Ended, again, checked_outcomes, ended_badly


def failed(task_id: str, second: int = 1, **fields: Any) -> Result:
    given: dict[str, Any] = {"outcome": "infra_error", "run": "v2", "task": {"question": "why?"}}
    finished_at = f"2026-01-01T00:00:{second:02d}Z"
    return Result(task_id=task_id, finished_at=finished_at, **(given | fields))


def ids(*results: Result, **options: Any) -> list[str]:
    return sorted(each.next_id for each in ended_badly(results, **options))


def test_only_what_ended_badly_is_sent_again() -> None:
    results = [
        failed("v2/a"),
        failed("v2/b", outcome="limit"),
        failed("v2/c", outcome="ok", reward=0.0),
        failed("v2/d", outcome="cancelled"),
    ]
    assert ids(*results) == ["v2/a~r1", "v2/b~r1"]
    assert ids(*results, outcomes=("limit", "cancelled")) == ["v2/b~r1", "v2/d~r1"]


def test_the_error_chooses_among_them() -> None:
    results = [
        failed("v2/a", error={"type": "ConnectError", "message": "Refused"}),
        failed("v2/b", error={"type": "KeyError", "message": "x"}),
        failed("v2/c"),
    ]
    assert ids(*results, error="connecterror: ref") == ["v2/a~r1"]


def test_the_last_attempt_decides() -> None:
    first, second = failed("v2/a"), failed("v2/a~r1", 2, retry_of="v2/a")
    assert ids(first, second) == ["v2/a~r2"]
    assert ids(second, first) == ["v2/a~r2"]
    assert ids(second) == ["v2/a~r2"]
    assert ids(first, second, failed("v2/a~r2", 3, retry_of="v2/a~r1", outcome="ok")) == []


def test_a_failed_replay_is_followed_by_a_retry_of_the_same_sample() -> None:
    assert ids(failed("v2/a"), failed("v2/1f", 2, replay_of="v2/a")) == ["v2/a~r1"]


def test_an_id_that_only_looks_like_a_retry_is_an_id() -> None:
    assert ids(failed("v2/a~r1"), failed("v2/b~r7x")) == ["v2/a~r1~r1", "v2/b~r7x~r1"]


def test_the_stored_task_is_sent_as_the_same_sample() -> None:
    result = failed(
        "v2/a/3",
        task={"question": "why?", "evaluators": [{"func": "raw"}], "sampling": {"top_p": 1}},
        group_id="v2/a",
        sample_index=3,
        group_size=8,
        seed=4,
        metadata={"level": 1},
        policy_version="w1",
    )
    assert again(Ended(result, "v2/a/3~r1"), None) == Task(
        question="why?",
        evaluators=[{"func": "raw"}],
        sampling={"top_p": 1},
        task_id="v2/a/3~r1",
        retry_of="v2/a/3",
        run="v2",
        group_id="v2/a",
        sample_index=3,
        group_size=8,
        seed=4,
        metadata={"level": 1},
        policy_version="w1",
    )


def test_a_dead_letter_has_the_task_as_it_was_sent() -> None:
    sent = Task(question="from the letter", task_id="v2/a", run="v2", deadline=1.0, priority=3)
    letter = DeadLetter("v2/a", "q", "c", "infra_error", "", 1.0, sent.encode(), b"")
    task = again(Ended(failed("v2/a"), "v2/a~r1"), letter)
    assert (task.question, task.priority, task.deadline) == ("from the letter", 3, None)
    assert (task.task_id, task.retry_of) == ("v2/a~r1", "v2/a")


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"task": None}, "does not hold the task"),
        ({"truncated": {"fields": ["task"]}}, "has cut its task"),
        ({"task": {"question": "my key is ***"}}, "a credential was"),
    ],
)
def test_a_task_that_is_not_whole_is_not_sent(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(TaskError, match=words):
        again(Ended(failed("v2/a", **fields), "v2/a~r1"), None)


@pytest.mark.parametrize(("text", "words"), [("ok", "not tried again"), ("limits", "choose from")])
def test_other_outcomes_are_refused(text: str, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        checked_outcomes(text)


def test_outcomes_are_written_with_commas() -> None:
    assert checked_outcomes("limit, crashed") == ("limit", "crashed")


def test_what_is_kept_has_no_trace() -> None:
    [ended] = ended_badly([failed("v2/a", trace=[{"id": "1"}], result="x" * 100)])
    assert (ended.result.trace, ended.result.result) == ([], None)
    assert orjson.dumps(ended.result.task) == b'{"question":"why?"}'

"""How the end of a run becomes a settlement, whatever the agent does."""

from __future__ import annotations

import errno
import time
from dataclasses import dataclass, replace
from typing import Any

import orjson
import pytest

from agentpipe.brokers.records import Claim
from agentpipe.core.result import WITHHELD, Result
from agentpipe.core.secret_forms import MASK
from agentpipe.core.task import Task
from agentpipe.core.trace import record_usage
from agentpipe.evaluation.evaluators import Evaluation
from agentpipe.worker.running.message import ClaimedMessage
from agentpipe.worker.running.runner import Completed
from tests.unit.settlements import CANARY, TASK, Bench, evaluation, result_of

# Answers.


def test_an_answer_is_ok_and_carries_all_that_came_with_its_task(bench: Bench) -> None:
    settlement = bench.end(result=Completed({"x": 4}))
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.result) == ("complete", "ok", {"x": 4})
    assert (result.task_id, result.collection, result.agent) == ("t1", "crew", "crew_0")
    assert (result.metadata, result.group_id, result.sample_index) == ({"mine": 1}, "g1", 2)
    assert (result.group_size, result.policy_version, result.seed) == (4, "v7", 9)
    assert (result.replay_of, result.worker, result.error) == ("t0", "worker-1", None)
    assert (result.run, result.retry_of) == ("v2", "t00")
    assert result.submitted_at == "1970-01-01T00:16:40.000000Z"
    assert result.submitted_at < (result.started_at or "") <= (result.finished_at or "")


def test_a_result_has_the_task_as_it_was_sent_without_what_it_leaves_out(bench: Bench) -> None:
    asked = {
        "question": "2 and 2?",
        "output_format": {"answer": "int"},
        "evaluators": [{"func": "json", "op": "="}],
        "mcp_servers": [{"name": "weather"}],
        "prepares": [{"prepare_func": "f"}],
    }
    task = Task.load({**asked, "task_id": "t1", "metadata": {"k": 1}, "seed": 3, "priority": 4})
    sent = bench.message(task=task)
    assert result_of(bench.end(sent, result=Completed(4))).task == asked
    assert result_of(bench.end(bench.message(task=task), exception=ValueError("no"))).task == asked


def test_no_secret_leaves_in_the_task(bench: Bench) -> None:
    task = Task.load(
        {
            "question": f"is {CANARY} a key?",
            "evaluators": [{"func": "json", "value": {CANARY: [CANARY]}}],
            "task_id": "t1",
        }
    )
    settlement = bench.end(bench.message(task=task), result=Completed(4))
    assert CANARY.encode() not in settlement.result
    assert (result_of(settlement).task or {})["question"] == "is *** a key?"


def test_an_attempt_counts_failures_and_crashes_before(bench: Bench) -> None:
    assert result_of(bench.end(result=Completed(4))).attempt == 1
    again = bench.message(failures=2, crashes=1)
    assert result_of(bench.end(again, result=Completed(4))).attempt == 4


@pytest.mark.parametrize(
    ("passed", "reward"), [([], None), ([True], 1.0), ([True, False], 0.5), ([False], 0.0)]
)
def test_the_reward_is_the_mean_of_passed(
    bench: Bench, passed: list[bool], reward: float | None
) -> None:
    run = Completed("4", tuple(evaluation(passed=each) for each in passed))
    result = result_of(bench.end(result=run))
    assert (result.outcome, result.reward) == ("ok", reward)
    assert result.reward_trustworthy == (reward is not None)
    assert [each["passed"] for each in result.evaluation_results] == passed


def test_a_graded_result_has_the_reward_of_each_name(bench: Bench) -> None:
    style = Evaluation({"name": "style", "weight": 3}, "4", passed=False, score=0.5)
    right = Evaluation({"name": "right"}, "4", passed=True)
    result = result_of(bench.end(result=Completed("4", (style, right))))
    assert (result.reward, result.rewards) == (0.625, {"style": 0.5, "right": 1.0})
    assert [each.get("score") for each in result.evaluation_results] == [0.5, None]
    broken = (style, evaluation(passed=False, broken=True))
    failed = result_of(bench.end(result=Completed("4", broken)))
    assert (failed.reward, failed.rewards) == (None, {})


def test_a_result_written_before_there_were_rewards_is_read() -> None:
    result = Result.decode(b'{"schema": 1, "task_id": "a", "outcome": "ok", "reward": 1.0}')
    assert (result.reward, result.rewards) == (1.0, {})


def test_a_broken_evaluator_is_no_wrong_answer(bench: Bench) -> None:
    run = Completed("4", (evaluation(passed=True), evaluation(passed=False, broken=True)))
    result = result_of(bench.end(result=run))
    assert (result.outcome, result.result, result.reward) == ("eval_error", "4", None)
    assert not result.reward_trustworthy
    assert result.error == {"type": "EvaluationError", "message": "it broke", "traceback": None}


# Hostile agents.


class HostileText(Exception):  # noqa: N818 - the name fits
    """Its text is the test's value; an exception is raised instead."""

    def __init__(self, text: Any) -> None:
        self.text = text

    def __str__(self) -> str:
        if isinstance(self.text, type):
            raise self.text
        return self.text  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    "text", [RuntimeError, RecursionError, SystemExit, KeyboardInterrupt, 7, None]
)
def test_a_message_that_cannot_be_shown_is_said_to_be_so(bench: Bench, text: Any) -> None:
    result = result_of(bench.end(exception=HostileText(text)))
    assert result.error is not None
    assert result.error["message"] == "its message cannot be shown: __str__ raises"


def test_a_message_of_surrogates_or_of_any_length_is_shown(bench: Bench) -> None:
    shown = result_of(bench.end(exception=HostileText("a\ud800b"))).error or {}
    assert shown["message"] == "a\ufffdb"
    shown = result_of(bench.end(exception=HostileText("x" * 10_000_000))).error or {}
    assert len(shown["message"]) <= 4000


@dataclass
class Thing:
    """A dataclass, which orjson encodes without help."""

    name: str


def cyclic() -> dict[str, Any]:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    return cycle


@pytest.mark.parametrize(
    "data", [{"x": {1, 2}}, {"x": b"bytes"}, {"x": object()}, cyclic(), {1: 2}]
)
def test_a_record_that_is_not_json_is_dropped_and_all_else_kept(bench: Bench, data: Any) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"type": "agent", **data})
        span.add({"type": "llm"})
    result = result_of(bench.end(message, result=Completed("4")))
    assert (result.outcome, result.result) == ("ok", "4")
    dropped, kept = (record["data"] for record in result.trace[0]["records"])
    assert "not JSON" in dropped["dropped"]
    assert (dropped["type"], kept) == ("agent", {"type": "llm"})


def nested(levels: int) -> Any:
    value: Any = "deep"
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize("levels", [*range(225, 256), 1_000, 100_000])
def test_a_record_nested_too_deeply_is_dropped_and_all_else_kept(bench: Bench, levels: int) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"type": "agent", "deep": nested(levels)})
        span.add({"type": "llm"})
    result = result_of(bench.end(message, result=Completed(f"{CANARY} 4")))
    assert (result.outcome, result.result) == ("ok", f"{MASK} 4")
    assert [record["data"]["type"] for record in result.trace[0]["records"]] == ["agent", "llm"]


@pytest.mark.parametrize(
    "field", ["id", "parent_id", "trace_id", "running_time", "timestamp", "span_index"]
)
@pytest.mark.parametrize(
    "value", [2**70, float("nan"), "\ud800", {"x": {1, 2}}, object(), b"bytes", nested(300), None]
)
def test_a_span_of_another_program_may_hold_anything(
    bench: Bench, field: str, value: object
) -> None:
    message = bench.message()
    assert message.tracer is not None
    message.tracer.take({"records": [{"data": {"type": "tool"}, "timestamp": value}], field: value})
    result = result_of(bench.end(message, result=Completed("4")))
    assert (result.outcome, result.result) == ("ok", "4")
    (span,) = result.trace
    assert isinstance(span["id"], str)
    assert all(isinstance(span[name], float) for name in ("running_time", "timestamp"))


@pytest.mark.parametrize("number", [2**70, -5, float("nan"), float("inf")])
def test_a_number_of_tokens_that_cannot_be_right_costs_no_answer(
    bench: Bench, number: float
) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root():
        record_usage({"input_tokens": number, "requests": 1, "usd": number})
    settlement = bench.end(message, result=Completed("4"))
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.result) == ("complete", "ok", "4")
    assert result.usage == {"requests": 1}
    assert settlement.usd == 0.0
    assert "'input_tokens'" in result.trace[0]["records"][0]["data"]["dropped"]


def test_what_spoils_a_result_in_the_end_is_left_out_and_said(bench: Bench) -> None:
    message = bench.message()
    assert message.tracer is not None
    message.tracer.spans.append({"records": [{1, 2}]})  # As if the agent still changed it.
    result = result_of(bench.end(message, result=Completed("4", (evaluation(passed=True),))))
    assert (result.outcome, result.result, result.reward) == ("ok", "4", 1.0)
    assert result.trace == []
    assert result.truncated is not None
    assert result.truncated["fields"] == ["trace"]
    assert "not JSON" in result.truncated["reason"]


def test_a_result_that_cannot_be_made_says_so_and_keeps_the_answer(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    spoilt = replace(evaluation(passed=True), config={"weight": "heavy"})
    settlement = bench.end(result=Completed("4", (spoilt,)))
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.result) == ("bury", "infra_error", "4")
    assert result.error is not None
    assert "failed to make a result of this run: could not convert" in result.error["message"]
    assert (result.task_id, result.metadata, result.attempt) == ("t1", {"mine": 1}, 1)
    assert "no result could be made of a run: ValueError: could not convert" in caplog.text
    assert "in reward" in caplog.text
    caplog.clear()
    secret = replace(evaluation(passed=True), config={"weight": CANARY})
    result = result_of(bench.end(result=Completed(f"4 {CANARY}", (secret,))))
    assert (result.outcome, result.result) == ("infra_error", f"4 {MASK}")
    assert "zebrawing" not in caplog.text


def test_a_record_with_a_lone_surrogate_is_kept_without_it(bench: Bench) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"type": "agent", "x\udfff": ["\ud800!"]})
    (record,) = result_of(bench.end(message, result=Completed("4"))).trace[0]["records"]
    assert record["data"] == {"type": "agent", "x\ufffd": ["\ufffd!"]}


def test_a_trace_is_in_the_result(bench: Bench) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"type": "agent"})
    result = result_of(bench.end(message, result=Completed("4")))
    assert result.trace[0]["records"][0]["data"] == {"type": "agent"}


# Secrets.


@pytest.mark.parametrize(
    "answer",
    [
        f"my token is {CANARY}",
        {"token": [CANARY]},
        {CANARY: 1},
        ("a", (CANARY,)),
        orjson.dumps({"token": CANARY}).decode(),
    ],
)
def test_no_secret_leaves_in_an_answer(bench: Bench, answer: Any) -> None:
    settlement = bench.end(result=Completed(answer))
    assert b"zebrawing" not in settlement.result
    assert MASK.encode() in settlement.result


def test_no_secret_leaves_in_a_trace(bench: Bench) -> None:
    message = bench.message()
    assert message.tracer is not None
    with message.tracer.root() as span:
        span.add({"header": CANARY, "nested": (CANARY,), "thing": Thing(CANARY)})
    assert b"zebrawing" not in bench.end(message, result=Completed("4")).result


def test_no_secret_leaves_in_an_error(bench: Bench) -> None:
    settlement = bench.end(exception=ValueError(f"bad token {CANARY}"))
    assert b"zebrawing" not in settlement.result
    assert settlement.reason == f"ValueError: bad token {MASK}"


def test_no_secret_leaves_in_an_evaluation(bench: Bench) -> None:
    run = Completed("4", (Evaluation({}, CANARY, passed=False, reason=f"not {CANARY}"),))
    assert b"zebrawing" not in bench.end(result=run).result


@pytest.mark.parametrize(
    ("error", "shown"),
    [
        ("TypeError: bad zebrawi", f"TypeError: {WITHHELD}"),
        ("checks:f raised KeyError: 'zebrawi' (at checks.py:3)", f"KeyError: {WITHHELD}"),
        ("zebrawi: no such name", WITHHELD),
        ("checks:f raised zebrawi: gone", WITHHELD),
        ("no type: zebrawi", WITHHELD),
        ("zebrawi", WITHHELD),
    ],
)
def test_a_withheld_error_keeps_its_type(bench: Bench, error: str, shown: str) -> None:
    judged = replace(evaluation(passed=False, broken=True), error=error, reason="KeyError: a")
    result = result_of(bench.end(result=Completed(f"it is {CANARY}", (judged,))))
    (judgement,) = result.evaluation_results
    assert (judgement["error"], judgement["reason"]) == (shown, WITHHELD)
    assert result.error == {"type": "EvaluationError", "message": shown, "traceback": None}


def test_the_senders_words_are_not_masked(bench: Bench) -> None:
    task = replace(TASK, metadata={"token": CANARY})
    result = result_of(bench.end(bench.message(task), result=Completed(CANARY)))
    assert (result.metadata, result.result) == ({"token": CANARY}, MASK)


# Tasks that never run.


def test_a_crashing_task_is_dead_after_its_last_crash(bench: Bench) -> None:
    bench.results.before_process_message(bench.broker, bench.message(crashes=2))
    message = bench.message(crashes=3)
    message.tracer = None
    settlement = bench.skip(message)
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.attempt) == ("bury", "crashed", 3)
    assert result.started_at is None
    assert "died 3 times" in settlement.reason


def test_a_task_that_may_crash_once_died_one_time(bench: Bench) -> None:
    bench.declare(max_crashes=1)
    message = bench.message(crashes=1)
    message.tracer = None
    assert "died 1 time while" in bench.skip(message).reason


def test_a_task_past_its_deadline_is_stale(bench: Bench) -> None:
    late = bench.message(replace(TASK, deadline=time.time() - 1))
    late.tracer = None
    settlement = bench.skip(late)
    assert (settlement.action, settlement.outcome) == ("complete", "stale")
    assert not settlement.ran
    assert bench.end(exception=ValueError("it ran")).ran
    in_time = bench.message(replace(TASK, deadline=time.time() + 1000))
    bench.results.before_process_message(bench.broker, in_time)
    assert in_time.settlement is None


@pytest.mark.parametrize(
    "payload",
    [
        b"",
        b"\xff\xfe",
        b"{",
        b"[]",
        b'"text"',
        b'{"schema": 99}',
        b'{"schema": 1, "question": 7}',
        b'{"actor_name": 7}',
        b"[" * 5000,
    ],
)
def test_what_cannot_be_read_is_dead_with_a_reason(bench: Bench, payload: bytes) -> None:
    settlement = bench.skip(bench.message(payload=payload))
    assert (settlement.action, settlement.outcome) == ("bury", "infra_error")
    assert settlement.reason.startswith("FormatError: ")
    assert result_of(settlement).task_id == "t1"


def test_an_unknown_actor_is_dead_with_a_reason(bench: Bench) -> None:
    message = ClaimedMessage(Claim("t1", "nowhere_0", TASK.encode(), "worker-1", 1))
    assert "no actor 'nowhere_0' is known" in bench.skip(message).reason


def test_giving_up_buries_with_all_that_is_known(bench: Bench) -> None:
    settlement = bench.results.settlement_of(bench.broker, bench.message())
    result = result_of(settlement)
    assert (settlement.action, result.outcome, result.task_id) == ("bury", "infra_error", "t1")
    assert (result.collection, result.agent, result.metadata) == ("crew", "crew_0", {"mine": 1})


def test_a_cancelled_task_has_a_result_too() -> None:
    seen: dict[str, Any] = {"task_id": "t1", "queue": "crew_0", "submitted_at": 0.0}
    result = Result.cancelled(TASK, collection="crew", **seen)
    assert (result.outcome, result.task_id, result.agent) == ("cancelled", "t1", "crew_0")
    assert (result.attempt, result.reward, result.metadata) == (0, None, {"mine": 1})
    assert result.submitted_at == "1970-01-01T00:00:00.000000Z"
    assert result.task == TASK.as_sent()
    unread = Result.cancelled(None, collection=None, **seen)
    assert (unread.metadata, unread.task) == ({}, None)


def test_a_shortage_of_the_worker_returns_the_task_and_is_an_infra_error_in_the_end(
    bench: Bench,
) -> None:
    actions = []
    for failures in (0, 0, 1, 2):
        settlement = bench.end(bench.message(failures=failures), exception=MemoryError())
        actions.append(settlement.action)
        assert settlement.failure is None
    assert actions == ["release", "retry", "retry", "bury"]
    assert result_of(settlement).outcome == "infra_error"
    assert bench.results.capacity.free(10) == 0  # It claims nothing for a while.


@pytest.mark.parametrize(("max_retries", "action"), [(2, "retry"), (0, "bury")])
def test_an_evaluator_that_meets_a_shortage_reduces_the_worker_and_does_not_count(
    bench: Bench, max_retries: int, action: str
) -> None:
    bench.declare(max_retries=max_retries)
    cause = OSError(errno.EMFILE, "Too many open files")
    broken = Evaluation(config={}, response="", passed=False, error="x", broken=True, cause=cause)
    run = Completed("x", (broken,), keepable=True)
    settlement = bench.end(result=run)
    assert (settlement.action, settlement.failure) == (action, None)
    assert bench.results.capacity.free(10) == 0

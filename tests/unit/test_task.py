"""Task and Result: what is accepted, what is encoded, what is refused and why."""

from __future__ import annotations

import json
import time
from copy import deepcopy
from dataclasses import asdict, fields
from typing import Any

import orjson
import pytest

from agentpipe.core.result import OUTCOMES, Result
from agentpipe.core.task import MAX_TASK_BYTES, SCHEMA, Task, new_id
from agentpipe.core.task_fields import MAX_DEPTH
from agentpipe.core.timestamps import utc
from agentpipe.errors import FormatError, TaskError
from agentpipe.sending.admission import admit

FULL: dict[str, Any] = {
    "question": "What is 2 + 2?",
    "category": "arithmetic",
    "output_format": {"answer": "number"},
    "mcp_servers": [{"name": "calculator"}],
    "use_specified_server": True,
    "evaluators": [{"func": "raw", "op": "=", "value": "4"}],
    "prepares": [{"func": "setup"}],
    "cleanups": [{"func": "teardown"}],
    "task_id": "v2/t1",
    "metadata": {"run": 7, "nested": {"list": [1, 2.5, None, True, "é ☃"]}},
    "group_id": "g1",
    "sample_index": 0,
    "group_size": 4,
    "group_need": 3,
    "group_repairs": 2,
    "policy_version": 3,
    "sampling": {"temperature": 0.5},
    "seed": 42,
    "priority": -5,
    "deadline": 2_000_000_000.5,
    "config_hash": "0123456789abcdef",
    "replay_of": "t0",
    "run": "v2",
    "retry_of": "t00",
    "answered": {"answer": 4},
    "spent_before": {"requests": 2, "usd": 0.5},
    "dramatiq": {"on_success": "save"},
}


def nested(depth: int) -> Any:
    value: Any = "bottom"
    for _ in range(depth):
        value = {"down": value}
    return value


def test_every_field_survives_the_wire() -> None:
    task = Task.load(FULL)
    assert asdict(task) == FULL
    assert Task.decode(orjson.loads(task.encode())) == task


def test_an_answer_may_be_what_no_sender_may_write() -> None:
    deep: Any = "a\0b"
    for _ in range(150):
        deep = [deep]
    task = Task(question="Why?", answered={"answer": deep, "trace": ["x" * MAX_TASK_BYTES]})
    assert Task.load(task) == task
    assert Task.decode(orjson.loads(task.encode())) == task
    with pytest.raises(TaskError, match="answered: expected an object"):
        Task.load({"answered": "yes"})


def test_the_full_example_names_every_field() -> None:
    assert set(FULL) == {entry.name for entry in fields(Task)}


def test_only_what_differs_from_the_default_is_written() -> None:
    assert json.loads(Task(question="Why?").encode()) == {"schema": SCHEMA, "question": "Why?"}


def test_a_text_is_a_question_and_a_task_is_itself() -> None:
    assert Task.load("Why?") == Task(question="Why?")
    assert Task.load(Task.load(FULL)) == Task.load(FULL)


def test_a_task_without_an_id_is_given_one() -> None:
    assert admit({"task_id": "mine"}).task.task_id == "mine"
    ids = {admit("Why?").task.task_id for _ in range(1000)}
    assert len(ids) == 1000
    assert "" not in ids


def test_a_task_with_evaluators_that_cannot_work_is_refused() -> None:
    with pytest.raises(TaskError, match="evaluator"):
        admit({"evaluators": [{"func": "jsn"}]})


def test_ids_sort_by_the_time_of_their_making() -> None:
    first = new_id()
    begun = time.time_ns() // 1_000_000
    while time.time_ns() // 1_000_000 == begun:
        pass
    assert first < new_id()


LABEL = "an integer or a string of at most 256 characters"


@pytest.mark.parametrize(
    ("field", "value", "complaint"),
    [
        ("question", 7, "question: expected a string, got 7"),
        ("question", None, "question: expected a string, got null"),
        ("category", [], "category: expected a string, got a list"),
        ("output_format", "x", "output_format: expected an object, got a string"),
        ("mcp_servers", {}, "mcp_servers: expected a list of objects, got an object"),
        ("mcp_servers", [{}, "x"], "mcp_servers: expected a list of objects, got a string in it"),
        ("use_specified_server", 1, "use_specified_server: expected true or false, got 1"),
        ("evaluators", "raw", "evaluators: expected a list of objects, got a string"),
        ("task_id", None, "task_id: expected a string of at most 256 characters, got null"),
        (
            "task_id",
            "x" * 257,
            "task_id: expected a string of at most 256 characters, got one of 257",
        ),
        ("metadata", [], "metadata: expected an object, got a list"),
        ("sample_index", True, "sample_index: expected an integer, got True"),
        ("group_size", 1.5, "group_size: expected an integer, got 1.5"),
        ("policy_version", 1.5, f"policy_version: expected {LABEL}, got 1.5"),
        ("policy_version", "v" * 2_000, f"policy_version: expected {LABEL}, got one of 2,000"),
        ("run", "my run", "a letter or digit first, got 'my run'"),
        ("task_id", "", "task_id: it is empty; give one, or leave the key out"),
        ("group_id", "", "group_id: it is empty; give one, or leave the key out"),
        ("policy_version", "", "policy_version: it is empty; give one, or leave the key out"),
        ("replay_of", "", "replay_of: it is empty; give one, or leave the key out"),
        ("retry_of", "", "retry_of: it is empty; give one, or leave the key out"),
        ("sample_index", -1, "sample_index: expected at least 0; got -1"),
        ("group_size", 0, "group_size: expected at least 1, got 0"),
        ("seed", 2**63, f"seed: expected an integer, got {2**63}"),
        ("priority", "high", "priority: expected an integer, got a string"),
        ("deadline", {}, "deadline: expected Unix seconds, or ISO 8601 with a zone"),
        ("question", b"x", "question: expected a string, got bytes"),
    ],
)
def test_a_field_of_the_wrong_kind_is_named(field: str, value: Any, complaint: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task.load({field: value})
    assert complaint in str(caught.value)


@pytest.mark.parametrize("data", [None, 7, ["question"], b"question"])
def test_what_is_neither_an_object_nor_a_text_is_no_task(data: Any) -> None:
    with pytest.raises(TaskError, match="a task is a JSON object or a string"):
        Task.load(data)


def test_a_misspelt_field_is_told_the_right_name() -> None:
    with pytest.raises(TaskError, match=r"unknown key 'questoin': did you mean 'question'\?"):
        Task.load({"questoin": "Why?"})


@pytest.mark.parametrize("key", ["my_own", "spent", "answers", "answer", "sent", "spent_befor"])
def test_keys_that_are_no_field_are_dropped(key: str) -> None:
    """Also keys that resemble a field that only agentpipe writes."""
    assert Task.load({"question": "Why?", key: {"x": 1}}) == Task(question="Why?")


def test_keys_are_texts() -> None:
    with pytest.raises(TaskError, match="keys must be strings"):
        Task.load({1: "x"})
    with pytest.raises(TaskError, match="metadata"):
        Task.load({"metadata": {1: "x"}})


def test_a_deadline_may_be_iso_8601() -> None:
    assert Task.load({"deadline": "2033-05-18T03:33:20Z"}).deadline == 2_000_000_000
    assert Task.load({"deadline": "2033-05-18T05:33:20+02:00"}).deadline == 2_000_000_000


@pytest.mark.parametrize(
    ("deadline", "complaint"),
    [
        ("soon", "is not ISO 8601"),
        ("2033-05-18T03:33:20", "has no zone"),
        (float("nan"), "is not a time"),
        (float("inf"), "is not a time"),
        (-1e300, "is not a time"),
        (2**62, "is not a time"),
    ],
)
def test_a_deadline_that_is_no_time_is_refused(deadline: Any, complaint: str) -> None:
    with pytest.raises(TaskError, match=f"^deadline: .*{complaint}"):
        Task.load({"deadline": deadline})


def test_a_deadline_of_another_type_is_named_once() -> None:
    with pytest.raises(TaskError) as error:
        Task.load({"run": "v1", "deadline": 2**64})
    assert len(error.value.messages) == 1


@pytest.mark.parametrize(
    ("data", "place"),
    [
        ({"question": "a\0b"}, "question: contains a NUL"),
        ({"metadata": {"a": [{"b": "\0"}]}}, "metadata.a[0].b: contains a NUL"),
        ({"metadata": {"a\0": 1}}, "metadata: keys must be strings without NUL"),
        ({"metadata": {"score": float("nan")}}, "metadata.score: nan is not JSON"),
        ({"metadata": {"scores": [1, float("-inf")]}}, "metadata.scores[1]: -inf is not JSON"),
        ({"metadata": {"a": [2**70]}}, "metadata.a[0]: an integer beyond 64 bits is not JSON"),
        ({"sampling": {"k": -(2**63) - 1}}, "sampling.k: an integer beyond 64 bits is not JSON"),
        ({"metadata": nested(MAX_DEPTH + 1)}, f"nested deeper than {MAX_DEPTH} levels"),
    ],
)
def test_what_json_cannot_hold_is_refused_with_its_place(data: Any, place: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task.load(data)
    assert place in str(caught.value)


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        ({"metadata": {"x": "y" * 600_000}}, "metadata: it has 600,008 bytes, 524,288 are allowed"),
        ({"sampling": {"stop": ["y" * 70_000]}}, "65,536 are allowed"),
        ({"category": "y" * 2_000}, "category: it has 2,002 bytes, 1,024 are allowed"),
        (
            {"policy_version": "y" * 1_500_000},
            "policy_version: expected an integer or a string of at",
        ),
        ({"group_id": "y" * 257}, "at most 256 characters"),
        ({"task_id": "y" * 257}, "at most 256 characters"),
    ],
)
def test_each_field_that_a_result_repeats_is_bounded(data: dict[str, Any], limit: str) -> None:
    with pytest.raises(TaskError) as caught:
        Task.load(data)
    assert limit in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        {"question": "\\u0000 and null", "metadata": {"a": None}},
        {"metadata": {"rows": [{}] * 2 * MAX_DEPTH}},
        {"metadata": nested(MAX_DEPTH)},
    ],
)
def test_what_json_can_hold_is_taken(data: dict[str, Any]) -> None:
    assert Task.decode(orjson.loads(Task.load(data).encode())) == Task(**data)


def test_mistakes_of_values_are_told_with_those_of_types() -> None:
    with pytest.raises(TaskError) as caught:
        Task.load({"question": 5, "metadata": {"a": float("nan")}})
    told = ["question: expected", "metadata.a: nan"]
    assert len(caught.value.messages) == len(told)
    assert all(map(str.startswith, caught.value.messages, told))


def test_a_cycle_is_refused() -> None:
    cycle: dict[str, Any] = {}
    cycle["again"] = cycle
    with pytest.raises(TaskError, match="nested deeper"):
        Task.load({"metadata": cycle})


@pytest.mark.parametrize("value", [{1, 2}, b"bytes", object(), "\ud800"])
def test_what_cannot_be_encoded_is_a_task_error(value: Any) -> None:
    with pytest.raises(TaskError, match="the task is not JSON"):
        Task.load({"metadata": {"value": value}}).encode()


def test_a_huge_task_is_refused_with_the_remedy() -> None:
    task = Task(question="x" * MAX_TASK_BYTES)
    with pytest.raises(TaskError, match="put large inputs in a file or a bucket"):
        task.encode()


@pytest.mark.parametrize("schema", [None, 0, 2, "1", [1]])
def test_an_unknown_schema_is_refused_with_a_reason(schema: Any) -> None:
    with pytest.raises(FormatError, match=r"a task of schema .*upgrade the older side"):
        Task.decode({"schema": schema, "question": "Why?"})
    with pytest.raises(FormatError, match=r"a result of schema .*upgrade the older side"):
        Result.decode(orjson.dumps({"schema": schema, "task_id": "a"}))


def test_a_stored_task_that_is_none_is_a_format_error() -> None:
    with pytest.raises(FormatError, match="not a task: question: expected a string"):
        Task.decode({"schema": SCHEMA, "question": 7})


def test_a_result_survives_the_wire() -> None:
    result = Result(
        result={"answer": 4},
        metadata={"run": 7},
        task_id="t1",
        outcome="ok",
        reward=1.0,
        reward_trustworthy=True,
        trace=[{"id": "s1"}],
        submitted_at=utc(0),
    )
    assert Result.decode(orjson.dumps(result.to_dict())) == result


def test_a_result_begins_with_what_the_peers_consumers_read() -> None:
    assert list(Result().to_dict())[:4] == ["result", "evaluation_results", "trace", "metadata"]


def test_a_results_new_keys_are_dropped() -> None:
    record = {**Result(task_id="a").to_dict(), "added_later": 1}
    assert Result.decode(orjson.dumps(record)) == Result(task_id="a")


@pytest.mark.parametrize(
    "change",
    [
        {"task_id": []},
        {"task_id": ""},
        {"task_id": None},
        {"outcome": 7},
        {"error": "it broke"},
        {"trace": {}},
        {"metadata": None},
        {"reward": "1"},
        {"finished_at": 12345},
    ],
)
def test_a_record_that_readers_cannot_rely_on_is_no_result(change: dict[str, Any]) -> None:
    record = {**Result(task_id="a").to_dict(), **change}
    with pytest.raises(FormatError, match="not a result"):
        Result.decode(orjson.dumps(record))


@pytest.mark.parametrize("data", [b"", b"\xff", b"{", b"[]", b"7", b"null"])
def test_broken_bytes_are_no_result(data: bytes) -> None:
    with pytest.raises(FormatError):
        Result.decode(data)


def test_the_outcomes_are_the_contracts() -> None:
    assert OUTCOMES == (
        "ok",
        "agent_error",
        "limit",
        "infra_error",
        "eval_error",
        "cancelled",
        "stale",
        "crashed",
    )


def test_times_are_iso_8601_in_utc_and_sort_as_texts() -> None:
    assert utc(0) == "1970-01-01T00:00:00.000000Z"
    assert utc(1.5) == "1970-01-01T00:00:01.500000Z"
    moments = [1.0, 1.000001, 1.5, 2.0, 1_000_000_000.0]
    assert sorted(map(utc, moments)) == list(map(utc, moments))


def test_what_is_changed_in_a_copy_stays_there() -> None:
    task = Task.load(FULL)
    before = deepcopy(task)
    copy = task.copy()
    assert copy == task
    copy.metadata["nested"]["list"].append(1)
    for each in fields(Task):
        value = getattr(copy, each.name)
        if isinstance(value, dict):
            value["new"] = 1
        elif isinstance(value, list):
            value.append({})
    assert task == before

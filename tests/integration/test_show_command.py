"""``agentpipe show``: the Result of one task, with any outcome."""

from __future__ import annotations

from contextlib import closing
from typing import TYPE_CHECKING, Any

import orjson

from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record

if TYPE_CHECKING:
    from tests.integration.project import Project


def test_a_task_is_shown_whatever_its_outcome(project: Project) -> None:
    project.collection()
    evaluators = [{"func": "raw", "op": "=", "value": "no"}]
    project.send({"question": "echo yes", "evaluators": evaluators}, "raise it broke")
    project.burst("--processes", "1")
    wrong = project.ok("show", "tasks-0").out
    assert wrong.startswith("tasks-0  ok  reward 0\n")
    for part in ("echo yes", "Answer", "fail    = no", "Trace: 1 span"):
        assert part in wrong
    failed = project.ok("show", "tasks-1").out
    assert failed.startswith("tasks-1  agent_error\n")
    assert "it broke" in failed
    result = project.ok("show", "tasks-1", "--json").json
    assert result == project.by_id()["tasks-1"]


def test_a_task_without_a_result_is_where_why_says(project: Project) -> None:
    project.collection()
    project.send("echo later")
    waits = project.run("show", "tasks-0")
    assert (waits.code, waits.out) == (1, "")
    assert waits.err.startswith("tasks-0 has no result yet: waiting")
    assert "agentpipe work" in waits.err


def test_an_unknown_task_is_an_error_with_the_nearest_id(project: Project) -> None:
    project.collection()
    project.send({"task_id": "p/lima/0", "question": "echo a"})
    project.burst("--processes", "1")
    for near in ("p/lima/1", "p/lima", "p/lime/0"):
        done = project.run("show", near)
        assert (done.code, done.out) == (1, "")
        assert "did you mean p/lima/0?" in done.err
    assert "did you mean" not in project.run("show", "wholly-different-7").err


def test_of_several_results_the_last_is_shown(project: Project) -> None:
    project.collection()
    project.send("echo a")
    project.burst("--processes", "1")
    first = project.by_id()["tasks-0"]
    later = {**first, "result": "later", "submitted_at": "2036-01-01T00:00:00Z"}
    retried = {**later, "task_id": "tasks-0~r1", "retry_of": "tasks-0"}
    _publish(project, later, retried)
    done = project.ok("show", "tasks-0")
    assert "later" in done.out
    assert "2 results have this id: this is the last one" in done.err
    assert "tried again: agentpipe show tasks-0~r1" in done.err
    assert "retry of tasks-0" in project.ok("show", "tasks-0~r1").out


def test_the_conversation_alone(project: Project) -> None:
    project.collection()
    spans = [
        _llm(0, messages=[{"role": "user", "content": "2 and 2?"}], response="four"),
        _llm(1, messages=[{"role": "tool", "content": "x"}], response="five"),
    ]
    _publish(project, {"schema": 1, "task_id": "t", "outcome": "ok", "trace": spans})
    shown = project.ok("show", "t", "--messages").out.splitlines()
    assert [line.split() for line in shown] == [
        ["user", "2", "and", "2?"],
        ["assistant", "four"],
        ["tool", "x"],
        ["assistant", "five"],
    ]
    (whole,) = project.ok("show", "t", "--messages", "--json").json["conversations"]
    assert [message["role"] for message in whole["messages"]] == [
        "user",
        "assistant",
        "tool",
        "assistant",
    ]
    assert whole["complete"]


def test_long_texts_are_cut_unless_all_is_wanted(project: Project) -> None:
    project.collection()
    _publish(project, {"schema": 1, "task_id": "t", "outcome": "ok", "result": "x" * 3_000_000})
    done = project.ok("show", "t")
    assert len(done.out) < 20_000
    assert "--full shows them" in done.err
    assert project.ok("show", "t", "--full").out.count("x") >= 3_000_000


def test_a_server_is_no_archive(project: Project) -> None:
    for url in ("kafka://127.0.0.1:1/results", "amqp://127.0.0.1:1/%2F?topic=results"):
        done = project.run("show", "t", "--sink", url)
        assert (done.code, done.out) == (2, "")
        assert "agentpipe collect" in done.err


def _llm(index: int, **data: Any) -> dict[str, Any]:
    record = {"timestamp": 1.0 + index, "data": {"type": "llm", **data}}
    return {"id": f"s{index}", "parent_id": "r", "records": [record], "span_index": index}


def _publish(project: Project, *results: dict[str, Any]) -> None:
    with closing(open_sink(Settings.from_env(project.environ))) as sink:
        sink.publish([Record(it["task_id"], orjson.dumps(it)) for it in results])

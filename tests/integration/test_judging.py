"""``agentpipe report`` on a real stream."""

from __future__ import annotations

import json
from contextlib import closing
from typing import TYPE_CHECKING

import pytest

from agentpipe.core.redaction import Redactor
from agentpipe.core.result import Result
from agentpipe.settings import Settings
from agentpipe.sinks import open_sink
from agentpipe.sinks.base import Record

if TYPE_CHECKING:
    from tests.integration.project import Project

pytestmark = pytest.mark.process
HOSTILE = "[bold]\x1b[2Jboo"


@pytest.mark.long
def test_samples_of_tasks_are_judged_as_a_whole_and_by_a_field(project: Project) -> None:
    right = [{"func": "raw", "op": "=", "value": "yes"}]
    project.collection(number=2)
    project.send(
        *(
            {
                "task_id": f"{task}/{sample}",
                "group_id": task,
                "sample_index": sample,
                "group_size": 2,
                "question": f"echo {answer}",
                "evaluators": right,
                "metadata": {"level": level},
            }
            for task, level in (("easy", 1), ("hard", HOSTILE))
            for sample, answer in enumerate(["yes", "yes" if task == "easy" else "no"])
        ),
        {"task_id": "broken", "question": "raise boom", "evaluators": right},
    )
    project.burst("--processes", "1")
    report = project.ok("report", "--json", "--by", "metadata.level", "--pass-k", "2,1").json
    assert (report["results"], report["rewarded"], report["pass_rate"]) == (5, 4, 0.75)
    assert report["bounds"] == [0.6, 0.8]
    assert (report["reward"]["groups"], report["reward"]["method"]) == (2, "wilson")
    one, two = report["pass_k"]
    assert (one["k"], one["any_passes"], one["all_pass"]) == (1, 0.75, 0.75)
    assert (two["k"], two["any_passes"], two["all_pass"]) == (2, 1.0, 0.5)
    assert {part["key"]: part["results"] for part in report["by"]} == {"-": 1, "1": 2, HOSTILE: 2}
    said = project.ok("report", "--by", "metadata.level", "--pass-k", "1,2,3").out
    for words in (
        "75.0% of 4 evaluated",
        "1: 60.0% to 80.0% if all of them were 0, or 1",
        "[bold]",
    ):
        assert words in said
    assert "no task has 3 evaluated samples" in said
    assert "\x1b" not in said


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (("--by", "question"), "choose from group"),
        (("--pass-k", "0"), "numbers from 1"),
        (("--pass-k", "2,x"), "numbers from 1"),
    ],
)
def test_what_it_cannot_do_is_a_usage_error(
    project: Project, options: tuple[str, str], words: str
) -> None:
    done = project.run("report", *options)
    assert (done.code, done.out) == (2, "")
    assert words in done.err


@pytest.mark.long
def test_a_run_is_reported_alone_and_by_the_context_of_its_agents(project: Project) -> None:
    project.collection(context=[{"env": {"WHO": "north"}}, {"env": {"WHO": "south"}}])
    right = [{"func": "raw", "op": "=", "value": "yes"}]
    asked = {"question": "echo yes", "evaluators": right, "run": "v2"}
    project.send(
        {"task_id": "v1/a", "question": "echo no", "evaluators": right, "run": "v1"},
        *({**asked, "task_id": f"v2/{name}"} for name in "abc"),
        {**asked, "task_id": "v2/d", "question": "raise boom"},
        {**asked, "task_id": "v2/d~r1", "retry_of": "v2/d"},
    )
    project.burst("--processes", "1")
    report = project.ok("report", "--run", "v2", "--by", "context", "--json").json
    assert (report["results"], report["pass_rate"], report["retried"]) == (4, 1.0, 1)
    assert {part["key"] for part in report["by"]} == {"0", "1"}
    assert len(report["config_hashes"]) == 1
    said = project.ok("report", "--run", "v2", "--by", "context").out
    assert "1 of 4" in said
    assert "south" not in said
    assert project.ok("report", "--json").json["results"] == 5


@pytest.mark.long
def test_a_run_of_two_configs_says_so(project: Project) -> None:
    project.collection()
    for number in (1, 2):
        project.send({"task_id": f"v2/{number}", "question": "echo yes", "run": "v2"})
        project.burst("--processes", "1")
        project.write("collection.yaml", "")
        project.collection(time_limit=60)
    done = project.ok("report", "--run", "v2")
    assert "has results of 2 configs" in done.err


def test_a_run_that_is_not_there_is_an_error(project: Project) -> None:
    project.collection()
    project.send({"task_id": "v2/1", "question": "echo yes", "run": "v2"})
    project.burst("--processes", "1")
    for name, words in (("v9", "no run 'v9'"), ("../x", "expected a run")):
        done = project.run("report", "--run", name)
        assert (done.code, done.out) == (2, "")
        assert words in done.err


RIGHT = [{"func": "raw", "op": "=", "value": "yes"}]


def send_run(project: Project, run: str, answers: dict[str, str]) -> None:
    project.send(
        *(
            {
                "task_id": f"{run}/{task}",
                "question": f"echo {answer}",
                "evaluators": RIGHT,
                "run": run,
            }
            for task, answer in answers.items()
        )
    )


@pytest.mark.long
def test_two_runs_are_compared_task_by_task(project: Project) -> None:
    project.collection()
    tasks = [f"t{number}" for number in range(8)]
    send_run(project, "v1", dict.fromkeys(tasks, "yes") | {HOSTILE: "yes"})
    send_run(project, "v2", {task: "yes" if task == "t0" else "no" for task in tasks})
    project.burst("--processes", "1")
    worse = project.run("compare", "v1", "v2", "--by", "agent", "--json")
    assert worse.code == 5
    found = worse.json
    assert (found["worse"], found["tasks"], found["only_a"]["first"]) == (True, 8, [HOSTILE])
    assert found["difference"]["delta"] == -0.875
    assert found["difference"]["p"] == found["difference"]["mcnemar"]["p"] == 2 / 2**7
    assert [part["key"] for part in found["by"]] == ["toys_0"]
    said = project.run("compare", "v1", "v2", "--by", "agent")
    assert said.code == 5
    assert "v2 is worse than v1, beyond chance" in said.out
    assert "\x1b" not in said.out
    better = project.ok("compare", "v2", "v1")
    assert "v1 is better than v2, beyond chance" in better.out
    same = project.ok("compare", "v1", "v1", "--json").json["difference"]
    assert (same["delta"], same["p"], same["ties"]) == (0, 1, 9)
    assert project.run("compare", "v1", "v9").code == 2


FLAKY = """
import pathlib
class Flaky:
    def __init__(self, journal):
        pass
    async def execute(self, task, context):
        if pathlib.Path("mended").exists():
            return "yes"
        if "down" in task.question:
            raise ConnectionError("down")
        raise ValueError("boom")
"""


@pytest.mark.long
def test_what_ended_badly_is_tried_again_once_at_a_time(project: Project) -> None:
    project.agent("flaky:Flaky", FLAKY)
    project.collection(max_retries=0)
    asked = {"evaluators": RIGHT, "run": "v2"}
    project.send(
        {"task_id": "v2/a/0", "question": "down", "group_id": "v2/a", "seed": 5, **asked},
        {"task_id": "v2/b", "question": "boom", **asked},
        {"task_id": "v1/b", "question": "boom", "run": "v1"},
    )
    project.burst("--processes", "1")
    listed = project.ok("retry", "--run", "v2", "--dry-run", "--json").json["tasks"]
    assert [each["task_id"] for each in listed] == ["v2/a/0~r1", "v2/b~r1"]
    sent = project.ok("retry", "--run", "v2", "--json").json
    assert (sent["accepted"], sorted(sent["task_ids"])) == (2, ["v2/a/0~r1", "v2/b~r1"])
    again = project.ok("retry", "--run", "v2", "--json").json
    assert (again["accepted"], again["duplicates"]) == (0, 2)
    project.burst("--processes", "1")
    some = project.ok("retry", "--run", "v2", "--error", "boom", "--json").json
    assert some["task_ids"] == ["v2/b~r2"]
    project.write("mended", "")
    project.burst("--processes", "1")
    assert project.ok("retry", "--run", "v2", "--json").json["task_ids"] == ["v2/a/0~r2"]
    project.burst("--processes", "1")
    assert project.ok("retry", "--run", "v2", "--json").json["accepted"] == 0
    report = project.ok("report", "--run", "v2", "--json").json
    assert (report["results"], report["retried"], report["pass_rate"]) == (2, 2, 1.0)
    last = {each["task_id"]: each for each in project.results()}["v2/a/0~r2"]
    assert (last["retry_of"], last["group_id"], last["seed"]) == ("v2/a/0~r1", "v2/a", 5)
    assert project.ok("dead", "list", "--json").json["total"] == 0


@pytest.mark.long
def test_a_retry_names_what_it_cannot_do(project: Project) -> None:
    project.collection()
    send_run(project, "v2", {"a": "yes"})
    project.burst("--processes", "1")
    for options, code, words in (
        ((), 2, "name the run"),
        (("--run", "v9"), 2, "no run 'v9'"),
        (("--run", "v2", "--outcome", "ok"), 2, "not tried again"),
    ):
        done = project.run("retry", *options)
        assert (done.code, done.out) == (code, "")
        assert words in done.err


RIGHT = [{"func": "raw", "op": "=", "value": "yes"}]


@pytest.mark.long
@pytest.mark.parametrize("isolation", ["coroutine", "process"])
def test_stored_answers_are_judged_again_and_no_agent_runs(
    project: Project, isolation: str
) -> None:
    project.collection(isolation=isolation)
    lines = [
        {"question": f"echo {answer}", "evaluators": RIGHT} for answer in ("yes", "YES", "no")
    ] + [{"question": "raise boom", "evaluators": RIGHT}]
    project.write("tasks.jsonl", "".join(f"{json.dumps(line)}\n" for line in lines))
    project.ok("send", "toys", "--file", "tasks.jsonl", "--run", "v1", "--samples", "2")
    project.burst("--processes", "1")
    started = len(project.journal("started"))
    lenient = [{"func": "toys:judge_loosely", "value": "yes", "name": "loose"}]
    project.write("lenient.yaml", json.dumps({"evaluators": lenient}))
    command = ("rescore", "--run", "v1", "--evaluators", "lenient.yaml", "--json")
    done = project.ok(*command).json
    assert done == {"run": "v1-rescored", "judged": 6, "carried": 2, "known": 0, "failed": 0}
    assert project.ok(*command).json["known"] == 8
    assert len(project.journal("started")) == started
    judged = {it["task_id"]: it for it in project.results() if it["run"] == "v1-rescored"}
    assert len(judged) == 8
    loud = judged["v1-rescored/000002/1"]
    assert (loud["reward"], loud["rewards"]) == (1.0, {"loose": 1.0})
    assert (loud["rescored_of"], loud["result"]) == ("v1/000002/1", "YES")
    assert loud["group_id"] == "v1-rescored/000002"
    assert loud["task"]["evaluators"] == lenient
    assert judged["v1-rescored/000004/0"]["outcome"] == "agent_error"
    compared = project.run("compare", "v1", "v1-rescored", "--json").json
    assert compared["difference"]["delta"] == pytest.approx(1 / 3)
    project.ok("archive", "trim", "--run", "v1-rescored", "--unread", "--yes")
    assert project.ok(*command).json == done
    assert project.ok("report", "--run", "v1-rescored", "--json").json["results"] == 8


def test_of_an_id_that_was_used_again_the_last_answer_is_judged_once(project: Project) -> None:
    project.collection()
    answers = [
        Result(task_id="v1/a", run="v1", collection="toys", submitted_at=at, result=answer)
        for at, answer in (("at 1", "no"), ("at 2", "yes"))
    ]
    with closing(open_sink(Settings.from_env(project.environ))) as sink:
        sink.publish([Record(it.task_id, it.encode(Redactor([]))) for it in answers])
    project.write("right.json", json.dumps(RIGHT))
    done = project.ok("rescore", "--run", "v1", "--evaluators", "right.json", "--json").json
    assert (done["judged"], done["known"]) == (1, 0)
    report = project.ok("report", "--run", "v1-rescored", "--json").json
    assert (report["results"], report["pass_rate"]) == (1, 1.0)


@pytest.mark.long
def test_a_task_file_gives_each_task_its_evaluators(project: Project) -> None:
    project.collection()
    project.write("tasks.jsonl", '{"question": "echo a"}\n{"question": "echo b", "task_id": "b"}\n')
    project.ok("send", "toys", "--file", "tasks.jsonl", "--run", "v1")
    project.burst("--processes", "1")
    mark = {"evaluators": [{"func": "raw", "op": "=", "value": "b"}], "question": "?"}
    project.write("new.jsonl", json.dumps({**mark, "task_id": "b"}) + "\n")
    done = project.run("rescore", "--run", "v1", "--evaluators", "new.jsonl", "--to-run", "w")
    assert (done.code, done.out) == (5, "w: 1 judged, 0 carried, 0 known, 1 failed\n")
    assert "v1/000001 is not judged again: the file has no evaluators for it" in done.err
    (judged,) = [it for it in project.results() if it["run"] == "w"]
    assert (judged["task_id"], judged["reward"]) == ("w/b", 1.0)


@pytest.mark.long
@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        ("x.yaml", "- {func: 'os:system', op: '=', value: 0}", "os:system"),
        ("x.yaml", "- {func: raw, op: '?'}", "op"),
        ("x.json", '{"evaluators": []}', "list of evaluators"),
        ("x.json", '{"evaluators": 7}', "list of evaluators"),
        ("none.json", None, "none.json"),
    ],
)
def test_evaluators_that_are_none_are_refused_before_anything_is_judged(
    project: Project, file: str, content: str | None, words: str
) -> None:
    project.collection()
    project.write("tasks.jsonl", '{"question": "echo a"}\n')
    project.ok("send", "toys", "--file", "tasks.jsonl", "--run", "v1")
    project.burst("--processes", "1")
    if content is not None:
        project.write(file, content)
    done = project.run("rescore", "--run", "v1", "--evaluators", file)
    assert done.code == 2
    assert words in done.err
    assert len(project.results()) == 1

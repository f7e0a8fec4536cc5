"""MCP-Universe's files: `check` reports how each runs, `send` accepts them, workers run them."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project

CANARY = "KANARIE-of-the-owner"
LLM = "kind: llm\nspec:\n  name: llm-1\n  type: openai\n  config:\n    model_name: gpt-4.1\n---\n"
REACT = "kind: agent\nspec:\n  name: walker\n  type: react\n  config:\n    llm: llm-1\n---\n"
BENCHMARK = "kind: benchmark\nspec:\n  description: A walk.\n  agent: walker\n  tasks:\n"
NATIVE = {
    "category": "general",
    "question": "echo 7",
    "output_format": {"answer": "[a number]"},
    "mcp_servers": [{"name": "calculator"}],
    "evaluators": [{"func": "json", "op": "=", "value": 7}],
}
THEIRS = {
    "question": "echo done",
    "use_specified_server": True,
    "evaluators": [{"func": "raw", "op": "github.check_repository", "op_args": {"q": "{{ Q }}"}}],
}


@pytest.fixture
def files(project: Project) -> Project:
    """A folder as MCP-Universe's users have it."""
    (project.folder / "configs" / "walks").mkdir(parents=True)
    project.write("configs/walks/one.json", json.dumps(NATIVE, indent=2))
    project.write("configs/walks/two.json", json.dumps([THEIRS, NATIVE], indent=2))
    tasks = "    - walks/one.json\n    - walks/two.json\n"
    project.write("configs/walks/bench.yaml", LLM + REACT + BENCHMARK + tasks)
    project.write("configs/server_list.json", '{"date": {"stdio": {"command": "python3"}}}')
    return project


# Stores that cannot be opened: commands that try it fail.
NOWHERE = ("--broker", "sqlite:////dev/null/x.db", "--sink", "sqlite:////dev/null/y.db")


def test_check_tells_how_each_file_of_a_folder_runs(files: Project) -> None:
    files.collection()
    files.write("configs/agents.yaml", LLM + REACT.replace("react", "fc"))
    told = files.ok("check", "configs", "collection.yaml", "--json", *NOWHERE).json
    assert (told["ok"], told["problems"]) == (True, [])
    assert told["totals"] == {"native": 3, "mcpuniverse": 2, "no": 0, "other": 1}
    found = {each["file"]: (each["kind"], each["runs"], each["reasons"]) for each in told["files"]}
    op = "op github.check_repository"
    assert found == {
        "configs/agents.yaml": ("agent", "native", []),
        "configs/server_list.json": ("other", "other", ["a server list: 1 of MCP"]),
        "configs/walks/bench.yaml": ("benchmark", "mcpuniverse", [op, "type react"]),
        "configs/walks/one.json": ("task", "native", []),
        "configs/walks/two.json": ("tasks", "mcpuniverse", [op]),
        "collection.yaml": ("collection", "native", []),
    }
    shown = files.ok("check", "configs", *NOWHERE).out
    assert f"mcpuniverse  configs/walks/two.json (tasks): {op}\n" in shown
    assert shown.endswith("2 native, 2 mcpuniverse, 0 no, 1 other\n")


def test_check_gives_every_reason_why_files_do_not_run(files: Project) -> None:
    newer = NATIVE | {"evaluators": [{"func": "raw", "op": "jcodemunch.llm_as_a_judge"}]}
    text = json.dumps(newer, indent=2)
    line_of_op = text[: text.index('"op"')].count("\n") + 1
    files.write("configs/walks/one.json", text)
    files.write("configs/walks/bench.yaml", LLM.replace("openai", "azure") + REACT)
    files.write("configs/broken.json", b'{"question": "\xff"}')
    (files.folder / "configs" / "again").symlink_to(files.folder / "configs")
    (files.folder / "configs" / ".git").mkdir()
    files.write("configs/.git/x.json", "{")
    (files.folder / "configs" / os.fsdecode(b"\xff.json")).write_text("{")
    done = files.run("check", "configs", "nowhere.json", "--json", *NOWHERE)
    assert (done.code, done.err) == (2, "")
    assert done.json["totals"] == {"native": 0, "mcpuniverse": 1, "no": 5, "other": 1}
    assert done.json["ok"] is False
    told = [(each["file"], each["line"], each["message"]) for each in done.json["problems"]]
    for file, line, word in (
        ("configs/walks/one.json", line_of_op, "not in mcpuniverse 1.1.3: did you mean"),
        ("configs/walks/bench.yaml", 4, "unknown llm type 'azure' in mcpuniverse 1.1.3"),
        ("configs/broken.json", 1, "not UTF-8"),
        ("nowhere.json", None, "no such file"),
        ("configs/\\udcff.json", 1, "not JSON"),
    ):
        assert any((f, n) == (file, line) and word in m for f, n, m in told), (file, told)
    shown = files.run("check", "configs", *NOWHERE)
    assert (shown.code, "Traceback" in shown.err) == (2, False)
    assert f"configs/walks/one.json:{line_of_op}: evaluators[0]: op: " in shown.out


def test_check_of_one_collection_opens_its_servers_as_ever(project: Project) -> None:
    project.collection()
    assert project.ok("check", "collection.yaml", "--json").json == {
        "ok": True,
        "problems": [],
        "notes": [],
    }
    away = project.run("check", "collection.yaml", "--json", *NOWHERE)
    assert (away.code, len(away.json["problems"])) == (4, 2)
    wrong = project.run("check", "agnet.yaml")
    assert (wrong.code, "no such file" in wrong.out) == (2, True)


@pytest.mark.long
def test_a_benchmark_is_sent_and_each_task_tells_what_it_is_of(files: Project) -> None:
    files.collection()
    file = "configs/walks/bench.yaml"
    sent = files.ok("send", "toys", "--file", file, "--metadata", "run=7", "--json").json
    assert sent["accepted"] == len(set(sent["task_ids"])) == 3
    files.burst("--processes", "1")
    results = [files.by_id()[task_id] for task_id in sent["task_ids"]]
    assert [result["metadata"] for result in results] == [
        {"benchmark": "A walk.", "task_file": f"walks/{name}.json", "run": "7"}
        for name in ("one", "two", "two")
    ]
    assert [result["outcome"] for result in results] == ["ok", "eval_error", "ok"]
    assert results[0]["reward"] == 1.0


def test_their_operator_is_no_wrong_answer_where_it_cannot_be_judged(files: Project) -> None:
    files.collection(context=[{"env": {"Q": CANARY}}])
    files.ok("send", "toys", "--file", "configs/walks/two.json")
    files.burst("--processes", "1")
    (broken,) = [result for result in files.results() if result["outcome"] == "eval_error"]
    assert (broken["result"], broken["reward"]) == ("done", None)
    (said,) = broken["evaluation_results"]
    words = "op github.check_repository needs MCP-Universe's code: run the collection with"
    assert said["error"].startswith(words)
    assert said["config"]["op_args"] == {"q": "{{ Q }}"}


def test_a_template_is_rendered_in_the_worker_and_its_value_stays_there(project: Project) -> None:
    project.collection(context=[{"env": {"OWNER": CANARY}}])
    equal = {"func": "raw", "op": "contain", "value": "{{ OWNER }}"}
    never = {"func": "raw", "op": "=", "value": ["{{OWNER}}", "{{ NOBODY }}"]}
    project.send({"task_id": "t", "question": "who", "evaluators": [equal, never]})
    project.burst("--processes", "1")
    (result,) = project.results()
    passed, failed = result["evaluation_results"]
    assert (result["outcome"], passed["passed"], failed["passed"]) == ("ok", True, False), result
    assert passed["config"]["value"] == "{{ OWNER }}"
    assert failed["config"]["value"] == ["{{OWNER}}", "{{ NOBODY }}"]
    assert CANARY not in json.dumps(result)
    stored = [
        path for path in project.folder.rglob("*.db*") if CANARY.encode() in path.read_bytes()
    ]
    assert stored == []


@pytest.mark.parametrize(
    ("name", "content", "line", "word"),
    [
        ("t.json", '[{"question": "echo"},\n{"question": 5}]', 2, "question: expected a string"),
        ("t.json", '{"question": "echo",\n"question": "x"}', 2, "duplicate key"),
        ("t.json", "{\n", 2, "not JSON"),
        ("b.yaml", BENCHMARK + "    - configs/walks/one.json\n    - bad.json\n", 7, "no such file"),
        ("b.yaml", BENCHMARK + "    - configs/walks/one.json\n    - walls.json\n", 7, "walls.json"),
        ("b.yaml", LLM + REACT, 1, "kind benchmark"),
    ],
)
def test_a_file_with_a_mistake_is_refused_whole(
    files: Project, name: str, content: str, line: int, word: str
) -> None:
    files.collection()
    path = files.write(name, content)
    done = files.run("send", "toys", "--file", str(path))
    assert (done.code, done.out) == (2, "")
    assert f"{name}:{line}: " in done.err
    assert str(files.folder) not in done.err
    assert word in done.err
    assert files.stats()["accepted"] == 0


def test_a_mistake_in_a_benchmarks_task_is_told_with_the_tasks_line(files: Project) -> None:
    files.collection()
    bad: Any = [NATIVE, {"question": 5}]
    files.write("configs/walks/two.json", json.dumps(bad))
    done = files.run("send", "toys", "--file", "configs/walks/bench.yaml")
    assert (done.code, done.out) == (2, "")
    assert "configs/walks/two.json:1: question: expected a string" in done.err
    assert files.stats()["accepted"] == 0

"""Each file's kind and how it runs are reported; nothing in a folder breaks the survey."""

from __future__ import annotations

import json
import os
import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from agentpipe.operations.project.survey import (
    MAX_REASONS,
    RUNS,
    Surveyed,
    is_for_collection,
    look,
    survey,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

LLM = "kind: llm\nspec: {name: l, type: openai, config: {model_name: m}}\n---\n"
BASIC = LLM + "kind: agent\nspec: {name: a, type: basic, config: {llm: l}}\n"
REACT = BASIC.replace("basic", "react")
OWN = "kind: agent\nspec: {name: a, type: python, config: {class: 'toy_of_survey:Toy'}}\n"
TOY = "class Toy:\n    async def execute(self, task, context): ...\n"
COLLECTION = "kind: collection\nspec: {name: c, config: agent.yaml}\n"
BENCH = "---\nkind: benchmark\nspec: {description: d, agent: a, tasks: [t.json]}\n"
GOOD = '{"question": "x", "evaluators": [{"func": "raw", "op": "=", "value": 1}]}'
THEIRS = '{"question": "x", "evaluators": [{"func": "raw", "op": "github.check_repository"}]}'
NEWER = '{\n"question": "x", "evaluators": [\n{"func": "raw", "op": "jcodemunch.llm_as_a_judge"}]}'
SERVERS = {"date": {"stdio": {"command": "python3", "args": []}}, "csm": {"http_url": "http://x"}}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "toy_of_survey.py").write_text(TOY)
    path = list(sys.path)
    yield
    sys.path[:] = path
    sys.modules.pop("toy_of_survey", None)


def seen(name: str, text: str | bytes, *, run_code: bool = False, **others: str) -> Surveyed:
    """The survey of a file with this content, next to other files."""
    for other, content in others.items():
        Path(other.replace("_", ".")).write_text(content)
    Path(name).write_bytes(text.encode() if isinstance(text, str) else text)
    found = look(Path(name), {}, run_code=run_code)
    assert found.runs in RUNS
    assert bool(found.problems) == (found.runs == "no")
    return found


@pytest.mark.parametrize(
    ("name", "text", "kind", "runs", "reasons"),
    [
        ("t.json", GOOD, "task", "native", []),
        ("t.json", f"[{GOOD}, {GOOD}]", "tasks", "native", []),
        ("t.json", f"{GOOD}\n{GOOD}\n", "tasks", "native", []),
        (
            "t.jsonl",
            f'"a text"\n{THEIRS}\n',
            "tasks",
            "mcpuniverse",
            ["op github.check_repository"],
        ),
        (
            "t.json",
            '{"question": "{{ X }}", "evaluators": [{"func": "m:f"}]}',
            "task",
            "native",
            [],
        ),
        ("t.json", '{"question": "x", "cleanups": [{}]}', "task", "mcpuniverse", ["cleanups"]),
        ("a.yaml", BASIC, "agent", "native", []),
        ("a.yml", REACT, "agent", "mcpuniverse", ["type react"]),
        ("a.yaml", OWN, "agent", "native", []),
        ("a.json", json.dumps(yaml.safe_load(OWN)), "agent", "native", []),
        (
            "a.yaml",
            REACT.replace("react", "mcpuniverse"),
            "agent",
            "mcpuniverse",
            ["type mcpuniverse"],
        ),
        ("c.yaml", COLLECTION, "collection", "native", []),
        ("b.yaml", BASIC + BENCH, "benchmark", "native", []),
        ("b.yaml", REACT + BENCH, "benchmark", "mcpuniverse", ["type react"]),
        ("b.yaml", BENCH, "benchmark", "native", []),
        ("s.json", json.dumps(SERVERS), "other", "other", ["a server list: 2 of MCP"]),
        (
            "s.json",
            json.dumps({"mcpServers": SERVERS}),
            "other",
            "other",
            ["a server list: 2 of MCP"],
        ),
        ("s.yaml", yaml.safe_dump(SERVERS), "other", "other", ["a server list: 2 of MCP"]),
        (
            "o.json",
            '{"name": "x", "version": 1}',
            "other",
            "other",
            ["JSON: an object with name, version"],
        ),
        ("o.json", "[1, 2]", "other", "other", ["JSON: a list of 2, not of tasks"]),
        ("o.json", "{}", "other", "other", ["JSON: an empty object"]),
        ("o.json", "5", "other", "other", ["JSON: an integer"]),
        ("o.yaml", "kind: Deployment\nspec: {}\n", "other", "other", ["YAML: kind 'Deployment'"]),
        ("o.yaml", "apiVersion: v1\nkind: Agent\n", "other", "other", ["YAML: kind 'Agent'"]),
        ("b.yaml", BENCH.replace("kind: b", "kind: B"), "benchmark", "native", []),
        ("o.yaml", "question: x\n", "other", "other", ["YAML: a task; write tasks as JSON"]),
        (
            "r.jsonl",
            '{"outcome": "ok", "evaluation_results": []}\n',
            "other",
            "other",
            ["JSON a line: results of tasks"],
        ),
        ("e.jsonl", "\n", "other", "other", ["an empty file"]),
    ],
)
@pytest.mark.usefixtures("folder")
def test_what_a_file_is_and_how_it_runs(
    name: str, text: str, kind: str, runs: str, reasons: list[str]
) -> None:
    found = seen(name, text, t_json=GOOD, agent_yaml=OWN)
    assert (found.kind, found.runs, found.reasons) == (kind, runs, reasons)


@pytest.mark.parametrize(
    ("name", "text", "kind", "reasons"),
    [
        (
            "t.json",
            NEWER,
            "task",
            ["t.json:3: evaluators[0]: op: 'jcodemunch.llm_as_a_judge' is not in mcp"],
        ),
        ("t.json", '{"questoin": "x"}', "task", ["t.json:1: unknown key 'questoin'"]),
        ("t.json", '{"instruction": "x",\n"evaluators": []}', "task", ["t.json:1: instruction: "]),
        (
            "t.json",
            '{"question": "", "prepares": [{"prepare_func": "new"}]}',
            "task",
            ["prepare_func: 'new' is not in"],
        ),
        (
            "t.jsonl",
            f'{GOOD}\n{{"question"}}\n[1]\n',
            "tasks",
            ["t.jsonl:2: not JSON", "t.jsonl:3: "],
        ),
        ("a.yaml", BASIC.replace("llm: l", ""), "agent", ["a.yaml:5: spec.config.llm: missing"]),
        ("a.yaml", BASIC.replace("basic", "baisc"), "agent", ["MCP-Universe has the type 'basic'"]),
        (
            "a.yaml",
            BASIC.replace("openai", "azure"),
            "agent",
            ["a.yaml:2: spec.type: unknown llm type 'azure' in mcpuniverse"],
        ),
        ("a.yaml", OWN.replace("Toy", "Toi"), "agent", ["did you mean 'Toy'"]),
        ("a.yaml", OWN.replace("kind: agent", "kind: agnet"), "agent", ["did you mean 'agent'"]),
        ("a.yaml", OWN.replace("kind: agent\n", ""), "agent", ["kind: missing"]),
        (
            "c.yaml",
            COLLECTION.replace("agent.yaml", "nil.yaml"),
            "collection",
            ["c.yaml:2: spec.config: no such file"],
        ),
        (
            "c.yaml",
            COLLECTION.replace("}", ", number: 0, context: 5}"),
            "collection",
            ["number", "context"],
        ),
        (
            "c.yaml",
            COLLECTION.replace("}", ", context: [{env: {A: '${UNSET}'}}]}"),
            "collection",
            ["UNSET"],
        ),
        (
            "c.yaml",
            COLLECTION.replace("agent.yaml", "b.yaml"),
            "collection",
            ["b.yaml:1: nothing to run"],
        ),
        (
            "b.yaml",
            REACT + BENCH.replace("agent: a", "agent: b"),
            "benchmark",
            ["b.yaml:8: spec.agent: 'b' is not in this file: choose from a"],
        ),
        (
            "b.yaml",
            REACT + BENCH.replace("t.json", "n.json"),
            "benchmark",
            ["b.yaml:8: spec.tasks[0]: no such file"],
        ),
        (
            "b.yaml",
            REACT + BENCH.replace("t.json", "bad.json"),
            "benchmark",
            ["bad.json:1: question: expected a string"],
        ),
        ("x.json", "{", "other", ["x.json:1: not JSON"]),
        ("x.json", '{"a": 1, "a": 2}', "other", ["x.json:1: not taken: duplicate key 'a'"]),
        ("x.yaml", "a: 1\na: 2\n", "other", ["x.yaml:2: duplicate key 'a', first in line 1"]),
        ("x.yaml", b"\xff\xfe", "other", ["not UTF-8"]),
        (
            "x.jsonl",
            b"\xff\xfe\n" * 3,
            "other",
            ["x.jsonl:1: UTF-16 or UTF-32, not UTF-8: save the file as UTF-8"],
        ),
    ],
)
@pytest.mark.usefixtures("folder")
def test_why_a_file_does_not_run(
    name: str, text: str | bytes, kind: str, reasons: list[str]
) -> None:
    bad, bench = '{"question": 5}', BENCH
    found = seen(name, text, bad_json=bad, b_yaml=bench, t_json=GOOD, agent_yaml=OWN)
    assert (found.kind, found.runs) == (kind, "no")
    assert len(found.reasons) == len(reasons), found.reasons
    assert all(a in b for a, b in zip(reasons, found.reasons, strict=True)), found.reasons


@pytest.mark.usefixtures("folder")
def test_there_is_an_end_to_the_reasons() -> None:
    found = seen("t.jsonl", GOOD + "\n" + "{}}\n" * 100_000)
    assert len(found.reasons) == MAX_REASONS + 1
    assert found.reasons[-1].startswith("t.jsonl: and ")


@pytest.mark.usefixtures("folder")
def test_one_collection_file_is_looked_at_as_ever() -> None:
    files = {"c.yaml": COLLECTION, "a.yaml": OWN, "broken.yaml": "a: [", "t.json": GOOD}
    for name, text in files.items():
        Path(name).write_text(text)
    told = {name: is_for_collection([Path(name)]) for name in [*files, "none.yaml", ".", "n.json"]}
    assert [name for name, yes in told.items() if yes] == ["c.yaml", "broken.yaml", "none.yaml"]
    assert is_for_collection([])
    assert not is_for_collection([Path("c.yaml"), Path("c.yaml")])


@pytest.mark.usefixtures("folder")
def test_what_the_users_module_prints_is_no_data(capsys: pytest.CaptureFixture[str]) -> None:
    Path("toy_of_survey.py").write_text("print('hello')\n" + TOY)
    for run_code, printed in ((False, ""), (True, "hello\n")):
        assert seen("a.yaml", OWN, run_code=run_code).runs == "native"
        said = capsys.readouterr()
        assert (said.out, said.err) == ("", printed)


@pytest.mark.usefixtures("folder")
def test_an_engine_that_fails_is_a_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Any) -> None:
        raise ZeroDivisionError("by mistake")

    monkeypatch.setattr("agentpipe.operations.project.readiness.open_engine", fail)
    (reason,) = seen("a.yaml", OWN, run_code=True).reasons
    assert "a.yaml:2: its engine fails: " in reason
    assert "by mistake" in reason


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("name: toys\nconfig: agent.yaml\n", [1]),
        ("a: 1\n---\nname: b\n", [1, 3]),
        ("- name: toys\n", [1]),
        ("{}\n", [1]),
        ("kind: Deployment\n---\nb: 1\n", [3]),
        ("kind: Deployment\n", []),
        ("apiVersion: v1\n", []),
        ("question: x\n", []),
        (yaml.safe_dump(SERVERS), []),
    ],
)
@pytest.mark.usefixtures("folder")
def test_a_named_yaml_file_must_have_a_kind(text: str, lines: list[int]) -> None:
    Path("in").mkdir()
    Path("in/flat.yaml").write_text(text)
    (named,) = survey([Path("in/flat.yaml")], {})
    (found,) = survey([Path("in")], {})
    assert (named.runs, found.runs) == ("no" if lines else "other", "other")
    assert [problem.line for problem in named.problems] == lines
    assert all("kind: missing: write" in problem.message for problem in named.problems)


# Folders.


@pytest.mark.usefixtures("folder")
def test_a_folder_is_walked_once_whatever_its_links_do() -> None:
    Path("in/.hidden").mkdir(parents=True)
    Path("in/deep/er").mkdir(parents=True)
    for name in (
        "in/a.json",
        "in/deep/b.JSON",
        "in/deep/er/c.jsonl",
        "in/.hidden/d.json",
        "in/e.txt",
    ):
        Path(name).write_text(GOOD)
    Path("in/deep/er/up").symlink_to(Path("in").absolute())
    Path("in/self").symlink_to("self")
    Path("in/again.json").symlink_to("a.json")
    Path("in/gone.json").symlink_to("nowhere.json")
    os.mkfifo("in/pipe.json")
    found = {each.file: each.runs for each in survey([Path("in"), Path("in/a.json")], {})}
    assert found == {
        "in/a.json": "native",
        "in/gone.json": "no",
        "in/pipe.json": "no",
        "in/deep/b.JSON": "native",
        "in/deep/er/c.jsonl": "native",
    }


PIECES = [GOOD, THEIRS, NEWER, BASIC, REACT, OWN, COLLECTION, BENCH, "[1, 2]", "a: &a [*a]\n", "\0"]
PIECES += [
    "{" * 200,
    "[" * 200,
    "- " * 200,
    '"',
    "'",
    "---\n",
    "? ",
    "!!python/x ",
    "\ud800",
    "\x85",
]
PIECES += [
    "kind: ",
    "spec: {",
    "tasks: [b.yaml]\n",
    "<<: *x\n",
    "&x ",
    "{{ X }}",
    "1e999",
    "\r",
    ": ",
]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("seed", range(8))
def test_no_mixture_of_files_raises(seed: int) -> None:
    dice = random.Random(seed)
    Path("mess").mkdir()
    for number in range(60):
        text = "".join(dice.choices(PIECES, k=dice.randint(1, 6)))
        data = bytearray(text.encode(errors="surrogatepass"))
        for _ in range(dice.randint(0, 3)):
            data[dice.randrange(len(data))] = dice.randrange(256)
        ending = dice.choice(("json", "jsonl", "yaml", "yml"))
        Path(f"mess/{number}.{ending}").write_bytes(bytes(data))
    found = list(survey([Path("mess")], {}))
    assert len(found) == 60
    assert all(bool(each.problems) == (each.runs == "no") for each in found)
    assert all(problem.message for each in found for problem in each.problems)


def bomb() -> str:
    links = "".join(f"a{n + 1}: &a{n + 1} [{', '.join([f'*a{n}'] * 9)}]\n" for n in range(9))
    return "a0: &a0 [x]\n" + links


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("text", [bomb(), "a: " + "[" * 5000, "x: " + "1:" * 50_000 + "1"])
def test_bombs_are_refused(text: str) -> None:
    found: Any = seen("x.yaml", text)
    assert found.runs == "no"

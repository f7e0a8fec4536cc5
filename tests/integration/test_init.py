"""`init`: its projects run at once, and its copies are complete."""

from __future__ import annotations

import json
import shlex
import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.project import Project

LLM = "kind: llm\nspec:\n  name: llm-1\n  type: openai\n  config:\n    model_name: gpt-4.1\n---\n"
REACT = "kind: agent\nspec:\n  name: a walker\n  type: react\n  config:\n    llm: llm-1\n---\n"
BENCHMARK = "kind: benchmark\nspec:\n  description: A walk.\n  agent: a walker\n  tasks:\n"
TASK = {
    "category": "general",
    "question": "echo 7",
    "evaluators": [{"func": "json", "op": "=", "value": 7}],
}


@pytest.fixture
def theirs(project: Project) -> Project:
    """A folder as MCP-Universe's users have it; the benchmark's task paths start a folder above."""
    folder = project.folder / "theirs" / "walks"
    folder.mkdir(parents=True)
    (folder / "one.json").write_text(json.dumps(TASK, indent=2))
    (folder / "two.json").write_text(json.dumps([TASK, TASK]))
    tasks = "    - walks/one.json\n    - walks/two.json\n"
    (folder / "bench.yaml").write_text(LLM + REACT + BENCHMARK + tasks)
    (folder.parent / "server_list.json").write_text('{"date": {"stdio": {"command": "python3"}}}')
    (folder.parent / "notes.txt").write_text("nothing of ours")
    return project


def contents(folder: Path) -> dict[str, bytes]:
    files = [
        path for path in folder.rglob("*") if path.is_file() and ".agentpipe" not in path.parts
    ]
    return {str(path.relative_to(folder)): path.read_bytes() for path in files}


def run_all(project: Project, folder: Path, commands: list[str]) -> str:
    """Run the printed commands on the embedded stores; return their output."""
    environ = {"AGENTPIPE_BROKER": "", "AGENTPIPE_SINK": "", "AGENT_COLLECTION_CONFIG_FILE": ""}
    printed = ""
    for command in commands:
        program, *args = shlex.split(command)
        assert program == "agentpipe"
        printed += project.ok(*args, folder=folder, env=environ).out
    return printed


@pytest.mark.long
def test_what_it_makes_runs_by_the_commands_it_prints(project: Project) -> None:
    first, *commands = project.ok("init", "my apples").out.splitlines()
    assert first == "cd 'my apples'"
    folder = project.folder / "my apples"
    printed = run_all(project, folder, commands)
    assert "3 accepted, 0 duplicates, 0 refused" in printed
    assert printed.count("reward 1") == 3
    readme = (folder / "README.md").read_text()
    assert [command for command in commands if command not in readme] == []


def test_the_current_folder_will_do_when_it_is_empty(project: Project) -> None:
    empty = project.folder / "empty"
    (empty / ".git").mkdir(parents=True)
    made = project.ok("init", "--json", folder=empty).json
    assert made["folder"] == "."
    assert sorted(made["files"]) == sorted(contents(empty))
    assert made["next"][0] == "agentpipe check collection.yaml"


@pytest.mark.parametrize("there", ["notes.txt", ".gitignore"])
def test_nothing_is_overwritten(project: Project, there: str) -> None:
    taken = project.folder / "taken"
    taken.mkdir()
    (taken / there).write_text("mine")
    done = project.run("init", "taken")
    assert done.code == 2
    assert f"taken contains {there}: choose a new or empty folder" in done.err
    assert contents(taken) == {there: b"mine"}
    assert project.run("init", "agent.yaml").code == 2


@pytest.mark.parametrize(
    ("folder", "words"),
    [
        ("agent.yaml", "agent.yaml: not a folder: choose a new one"),
        ("agent.yaml/x", "agent.yaml/x: Not a directory: choose a folder that can be created"),
        ("/proc/x", "/proc/x: No such file or directory: choose a folder that can be created"),
        ("/sys/x", "/sys/x: "),
    ],
)
def test_a_place_that_cannot_be_written_is_told(project: Project, folder: str, words: str) -> None:
    for source in ([], ["--from-mcp-universe", "agent.yaml"]):
        done = project.run("init", folder, *source)
        assert (done.code, done.out, done.err.count("\n")) == (2, "", 1)
        assert done.err.startswith(words)


def test_a_path_that_is_empty_is_not_taken_for_none(project: Project) -> None:
    done = project.run("init", "new", "--from-mcp-universe", "")
    assert (done.code, "--from-mcp-universe is empty" in done.err) == (2, True)
    assert not (project.folder / "new").exists()


def test_a_folder_of_theirs_is_taken_over(theirs: Project) -> None:
    made = theirs.ok("init", "new", "--from-mcp-universe", "theirs", "--json").json
    assert made["files"] == [
        ".gitignore",
        "collection.yaml",
        "server_list.json",
        "walks/bench.yaml",
        "walks/one.json",
        "walks/two.json",
    ]
    copied = contents(theirs.folder / "new")
    own = contents(theirs.folder / "theirs")
    assert {name: copied[name] for name in own if name in copied} == {
        name: own[name] for name in own if name != "notes.txt"
    }
    runs = {each["file"]: each["runs"] for each in made["runs"]}
    assert runs == {
        "collection.yaml": "mcpuniverse",
        "walks/bench.yaml": "mcpuniverse",
        "walks/one.json": "native",
        "walks/two.json": "native",
    }
    assert "make mcpuniverse" in " ".join(made["notes"])
    assert "agentpipe send a-walker --file walks/bench.yaml -c collection.yaml" in made["next"]
    told = theirs.ok("check", "new", "--json", "--broker", "sqlite:////dev/null/x.db").json
    assert told["problems"] == []


def test_one_benchmark_brings_all_that_it_names(theirs: Project) -> None:
    bench = "theirs/walks/bench.yaml"
    made = theirs.ok("init", "new", "--from-mcp-universe", bench, "--json").json
    assert made["files"] == [
        ".gitignore",
        "bench.yaml",
        "collection.yaml",
        "walks/one.json",
        "walks/two.json",
    ]
    shutil.rmtree(theirs.folder / "theirs")
    checked = theirs.ok("check", "new/bench.yaml", "--json", folder=theirs.folder).json
    assert checked["totals"]["mcpuniverse"] == 1


@pytest.mark.long
def test_tasks_alone_get_an_agent_to_begin_with(theirs: Project) -> None:
    task = "theirs/walks/one.json"
    made = theirs.ok("init", "new", "--from-mcp-universe", task, "--json").json
    assert "no agent found" in " ".join(made["notes"])
    printed = run_all(theirs, theirs.folder / "new", made["next"][1:])
    assert "1 accepted" in printed


def test_a_collection_of_theirs_is_kept_as_it_is(project: Project) -> None:
    own = project.folder / "own"
    own.mkdir()
    for name in ("toys.py", "agent.yaml"):
        shutil.copy(project.folder / name, own)
    (own / "many.yaml").write_text(
        "kind: collection\nspec: {name: toys, config: agent.yaml, schedule: "
        "[{cron: 0 3 * * *, tasks: nightly.jsonl}]}\n"
    )
    (own / "nightly.jsonl").write_text('"echo"\n')
    made = project.ok("init", "new", "--from-mcp-universe", "own/many.yaml", "--json").json
    assert made["files"] == [".gitignore", "agent.yaml", "many.yaml", "nightly.jsonl", "toys.py"]
    assert "agentpipe check many.yaml" in made["next"]
    shutil.rmtree(own)
    run_all(project, project.folder / "new", ["agentpipe check many.yaml"])


def test_what_lies_outside_is_told_and_not_taken(project: Project) -> None:
    (project.folder / "own").mkdir()
    (project.folder / "secret.json").write_text("{}")
    task = {**TASK, "output_format": {"file": "../../secret.json", "other": "../secret.json"}}
    (project.folder / "own" / "task.json").write_text(json.dumps(task))
    done = project.ok("init", "new", "--from-mcp-universe", "own/task.json")
    assert "'../secret.json' is outside the copied folder" in done.err
    assert "secret.json" not in contents(project.folder / "new")


def test_where_there_is_nothing_of_theirs_nothing_is_made(project: Project) -> None:
    (project.folder / "notes").mkdir()
    (project.folder / "notes" / "a.json").write_text('{"some": "thing"}')
    for path in ("notes", "nowhere"):
        done = project.run("init", "new", "--from-mcp-universe", path)
        assert done.code == 2
        assert not (project.folder / "new").exists()

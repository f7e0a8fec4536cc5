"""Task files named by benchmarks: how they are found, read and marked."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentpipe.config.agent_config import load_agent_config
from agentpipe.errors import ConfigError
from agentpipe.sending.benchmarks import benchmark_tasks, read_benchmarks

AGENT = "kind: agent\nspec: {name: a, type: python, config: {class: 'x:Y'}}\n---\n"
SPEC = "kind: benchmark\nspec:\n  description: Try it.\n  agent: a\n  tasks:\n"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """MCP-Universe's layout: a benchmark file in one folder, tasks named relative to its parent."""
    (tmp_path / "configs" / "b" / "tasks").mkdir(parents=True)
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    return tmp_path / "configs" / "b"


def task(path: Path, **fields: object) -> None:
    path.write_text(json.dumps({"question": path.stem, **fields}))


def test_task_files_are_sought_beside_it_above_it_and_in_the_current_folder(folder: Path) -> None:
    task(folder / "tasks" / "one.json")
    task(folder / "tasks" / "two.json", metadata={"task_file": "own", "k": 1})
    task(Path("three.json"))
    (folder.parent / "b" / "list.json").write_text('["four", "five"]')
    names = ["tasks/one.json", "b/tasks/two.json", "three.json", "list.json"]
    file = folder / "bench.yaml"
    file.write_text(AGENT + SPEC + "".join(f"  - {name}\n" for name in names))
    (benchmark,), problems = read_benchmarks(file)
    assert not problems
    assert (benchmark.agent, benchmark.agent_line) == ("a", 7)
    assert [each.line for each in benchmark.tasks] == [9, 10, 11, 12]
    tasks = [each.task for each in benchmark_tasks(file)]
    assert [each.question for each in tasks] == ["one", "two", "three", "four", "five"]
    assert tasks[0].metadata == {"benchmark": "Try it.", "task_file": "tasks/one.json"}
    assert tasks[1].metadata == {"benchmark": "Try it.", "task_file": "own", "k": 1}
    assert len({each.task_id for each in tasks}) == 5


@pytest.mark.parametrize(
    ("bench", "written", "lies"),
    [
        # As in mcpuniverse 1.1.3: relative to its benchmarks folder, at any depth.
        ("configs/marks/files/bench.yaml", "marks/desk/t.json", "configs/marks/desk/t.json"),
        ("configs/deep/configs/hle/bench.yaml", "deep/hle/t.json", "configs/deep/hle/t.json"),
        # Relative to the repository's root.
        ("a/benchmark/b/c/bench.yaml", "a/benchmark/b/t.json", "a/benchmark/b/t.json"),
        # Elsewhere in the repository: mcpuniverse's runner accepts it from anywhere.
        (
            "mine/bench.yaml",
            "test/web/t.json",
            "mcpuniverse/benchmark/configs/test/web/t.json",
        ),
        # As in later versions.
        ("benchmark/mark/bench.yaml", "desk/t.json", "benchmark/mark/task_configs/desk/t.json"),
    ],
)
def test_tasks_are_found_where_theirs_finds_them(
    folder: Path, bench: str, written: str, lies: str
) -> None:
    root = folder.parents[1]
    for name in (bench, lies):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
    task(root / lies)
    (root / bench).write_text(SPEC + f"  - {written}\n")
    (only,) = benchmark_tasks(root / bench)
    assert only.task.question == "t"
    assert only.task.metadata["task_file"] == written
    (root / lies).unlink()
    with pytest.raises(ConfigError, match="no such file"):
        benchmark_tasks(root / bench)


def test_the_nearest_of_several_counts(folder: Path) -> None:
    places = [folder / "t", folder.parent / "t", Path("t"), folder.parents[1] / "t"]
    for number, place in enumerate(places):
        place.mkdir()
        task(place / "n.json", metadata={"n": number})
    file = folder / "bench.yaml"
    file.write_text(SPEC + "  - t/n.json\n")
    found = []
    for place in places:
        found.append(benchmark_tasks(file)[0].task.metadata["n"])
        (place / "n.json").unlink()
    assert found == [0, 1, 2, 3]


def test_a_missing_task_hides_no_other_mistake(folder: Path) -> None:
    (folder / "a.json").write_text("[1]")
    file = folder / "bench.yaml"
    long = "What is 2.5? " * 40  # A question in place of a path.
    names = ["5", "no/such.json", "a.json", json.dumps(long), "b.json"]
    file.write_text(SPEC + "".join(f"  - {name}\n" for name in names))
    with pytest.raises(ConfigError) as caught:
        benchmark_tasks(file)
    told = [(Path(each.file).name, each.line) for each in caught.value.problems]
    assert told == [("bench.yaml", 6), *[("bench.yaml", n) for n in (7, 9, 10)], ("a.json", 1)]
    assert all("\n" not in each.message for each in caught.value.problems)


def test_without_a_description_it_is_called_by_its_file(folder: Path) -> None:
    task(folder / "t.json")
    file = folder / "bench.yaml"
    file.write_text("kind: benchmark\nspec: {benchmark_id: theirs, tasks: [t.json]}\n")
    (only,) = benchmark_tasks(file)
    assert only.task.metadata["benchmark"] == "bench.yaml"


def test_its_file_serves_as_the_agents_config(folder: Path) -> None:
    task(folder / "t.json")
    file = folder / "bench.yaml"
    file.write_text(AGENT + SPEC + "  - t.json\n")
    config = load_agent_config(file)
    assert (config.name, len(config.documents)) == ("a", 1)
    file.write_text(AGENT.replace("name: a", "name: z") + AGENT + SPEC + "  - t.json\n")
    assert load_agent_config(file, "a").name == "a"
    with pytest.raises(ConfigError, match="which of"):
        load_agent_config(file)


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (AGENT, 1, "add a document of kind benchmark"),
        (SPEC.replace("  tasks:\n", ""), 2, "spec.tasks: missing"),
        (SPEC.replace("tasks:", "tasks: []"), 5, "the list is empty"),
        (SPEC.replace("tasks:", "tasks: t.json"), 5, "expected a list"),
        (SPEC.replace("tasks:", "task: [t.json]"), 5, "did you mean 'tasks'"),
        (SPEC + "  - tt.json\n", 6, "did you mean 't.json'"),
        (SPEC + "  - 5\n", 6, "expected a string"),
        (SPEC.replace("Try it.", "[x]") + "  - t.json\n", 3, "expected a string"),
    ],
)
def test_mistakes_are_told_with_their_line(folder: Path, text: str, line: int, words: str) -> None:
    task(folder / "t.json")
    file = folder / "bench.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        benchmark_tasks(file)
    told = {problem.line: problem.message for problem in caught.value.problems}
    assert words in told[line], told


def test_the_mistakes_of_all_task_files_are_told_at_once(folder: Path) -> None:
    (folder / "a.json").write_text('{"question":\n 5}')
    (folder / "b.json").write_text("[1]")
    file = folder / "bench.yaml"
    file.write_text(SPEC + "  - a.json\n  - b.json\n  - a.json\n")
    with pytest.raises(ConfigError) as caught:
        benchmark_tasks(file)
    assert [(Path(p.file).name, p.line) for p in caught.value.problems] == [
        ("a.json", 1),
        ("b.json", 1),
    ]

"""The import copies all that MCP-Universe's files refer to, whatever their texts contain."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from agentpipe.operations.project.import_files import find_files

LLM = "kind: llm\nspec: {name: l, type: openai, config: {model_name: m}}\n---\n"
REACT = "kind: agent\nspec: {name: a, type: react, config: {llm: l, system_prompt: %s}}\n---\n"
BENCHMARK = "kind: benchmark\nspec: {agent: a, tasks: [%s]}\n"


@pytest.mark.parametrize(
    "text",
    [
        "x" * 254 + ".y",
        "a.b/" * 99,
        "/" * 300 + ".5",
        "What is 2.5? " * 20,
        "\ud800.x",
        ".." + "/.." * 90 + ".x",
        "~.x",
        "x:y.z",
        ("y" * 300) + ".py:Class",
        "evil\x00.json",
    ],
)
@pytest.mark.parametrize("key", ["question", "category", "metadata"])
def test_a_text_that_looks_like_a_path_is_a_text(tmp_path: Path, key: str, text: str) -> None:
    task = {"question": "q", key: {"k": text} if key == "metadata" else text}
    (tmp_path / "task.jsonl").write_text(json.dumps({"question": "q"}) + "\n" + json.dumps(task))
    (tmp_path / "bench.yaml").write_text(BENCHMARK % "task.jsonl" + f"---\n{json.dumps(task)}")
    found = find_files(tmp_path, {})
    assert Path("task.jsonl") in found.files
    assert set(found.files) <= {Path("bench.yaml"), Path("task.jsonl")}


def test_what_lies_above_the_file_comes_along(tmp_path: Path) -> None:
    folder = tmp_path / "mcpuniverse" / "benchmark" / "configs"
    (folder / "marks" / "desk").mkdir(parents=True)
    (folder / "marks" / "desk" / "one.json").write_text('{"question": "x"}')
    (tmp_path / "prompts").mkdir()
    (tmp_path / "prompts" / "p.j2").write_text("You are.")
    (folder / "marks" / "deep").mkdir()
    bench = folder / "marks" / "deep" / "bench.yaml"
    bench.write_text(LLM + REACT % "prompts/p.j2" + BENCHMARK % "marks/desk/one.json")
    assert set(map(str, find_files(bench, {}).files)) == {
        "bench.yaml",
        "prompts/p.j2",
        "marks/desk/one.json",
    }
    whole = find_files(tmp_path, {})
    assert str(bench.relative_to(tmp_path)) in set(map(str, whole.files))
    assert set(whole.files) == {path.relative_to(tmp_path) for path in tmp_path.rglob("*.*")}
    assert whole.notes == []

"""Ids in files: one id is one task, anywhere in the file or in any of its files."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.config.task_rules import NO_RULES, TaskRules
from agentpipe.core.run_plan import RunPlan
from agentpipe.errors import ConfigError, TaskError
from agentpipe.operations.read_tasks import read_tasks

if TYPE_CHECKING:
    from pathlib import Path

IN_RUN = TaskRules(plan=RunPlan("v2"))
A, OTHER_A = {"task_id": "a", "question": "one"}, {"task_id": "a", "question": "two"}


def lines(*values: Any) -> str:
    return "".join(f"{json.dumps(each)}\n" for each in values)


def refusal(file: Path, rules: TaskRules = NO_RULES) -> str:
    with pytest.raises(ConfigError) as error:
        list(read_tasks(str(file), BytesIO(), rules))
    return str(error.value)


@pytest.mark.parametrize("rules", [NO_RULES, IN_RUN])
def test_two_tasks_with_one_id_are_refused_with_both_lines(
    tmp_path: Path, rules: TaskRules
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(lines(A, "hi", OTHER_A))
    assert f"{file}:3: task_id: 'a' is that of another task, in line 1" in refusal(file, rules)
    with pytest.raises(TaskError, match=r"stdin:3: task_id: 'a' .* in line 1"):
        list(read_tasks("-", BytesIO(file.read_bytes()), rules))


def test_the_same_task_twice_is_a_duplicate(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(lines(A, dict(reversed(A.items()))))
    assert len(list(read_tasks(str(file), BytesIO()))) == 2


def test_the_same_task_with_a_default_written_out_is_a_duplicate(tmp_path: Path) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(lines(A, A | {"priority": 0, "metadata": {}, "group_id": None}))
    assert len(list(read_tasks(str(file), BytesIO()))) == 2


def test_tasks_of_a_document_have_their_own_lines(tmp_path: Path) -> None:
    file = tmp_path / "tasks.json"
    file.write_text(f"[\n{json.dumps(A)},\n{json.dumps(OTHER_A)}]")
    assert f"{file}:3: task_id: 'a' is that of another task, in line 2" in refusal(file)


def test_files_of_a_benchmark_are_one(tmp_path: Path) -> None:
    for name, task in (("one", A), ("two", OTHER_A)):
        (tmp_path / f"{name}.json").write_text(json.dumps(task))
    bench = tmp_path / "bench.yaml"
    bench.write_text("kind: benchmark\nspec:\n  agent: a\n  tasks: [one.json, two.json]\n")
    found = refusal(bench)
    assert "two.json:1: task_id: 'a' is that of another task, in " in found
    assert "one.json:1" in found


@pytest.mark.parametrize(
    "values", [(A, {"task_id": "000003"}, "hi"), ("hi", {"task_id": "000001"})]
)
def test_an_id_that_a_run_gives_by_line_is_refused_in_runs_only(
    tmp_path: Path, values: tuple[Any, ...]
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(lines(*values))
    assert "would be two tasks, as a run counts lines" in refusal(file, IN_RUN)
    assert len(list(read_tasks(str(file), BytesIO()))) == len(values)
    # In a document, a run counts tasks, not lines.
    document = tmp_path / "tasks.json"
    document.write_text(json.dumps(values))
    assert f"{document}:1: task_id: " in refusal(document, IN_RUN)


@pytest.mark.parametrize("question", [{}, {"question": ""}, {"question": " \n"}])
def test_agents_that_only_ask_get_no_task_without_a_question(
    tmp_path: Path, question: dict[str, str]
) -> None:
    file = tmp_path / "tasks.jsonl"
    file.write_text(lines("hi", {"metadata": {"n": 1}, **question}))
    found = refusal(file, TaskRules(needs_question=True))
    assert f"{file}:2: question: it is missing or empty" in found
    assert len(list(read_tasks(str(file), BytesIO()))) == 2

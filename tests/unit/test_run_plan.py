"""A run's tasks have the same ids and seeds each time they are sent."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.config.task_rules import TaskRules
from agentpipe.core.run_plan import RunPlan, seed_of
from agentpipe.core.task import MAX_TASK_BYTES, Task
from agentpipe.errors import ConfigError, TaskError
from agentpipe.operations.read_tasks import read_tasks
from agentpipe.sending.admission import admit
from agentpipe.sending.run_tasks import in_run, key_of, random_part

if TYPE_CHECKING:
    from pathlib import Path


def written(folder: Path, *tasks: Any, name: str = "tasks.jsonl") -> str:
    path = folder / name
    lines = [task if isinstance(task, str) else json.dumps(task) for task in tasks]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def sent(file: str, plan: RunPlan) -> list[Task]:
    tasks = read_tasks(file, BytesIO(), TaskRules(plan=plan))
    return [each.task for each in in_run(tasks, plan)]


def test_ids_begin_with_the_run_and_go_on_with_id_or_line(tmp_path: Path) -> None:
    file = written(tmp_path, '"hi"', "", {"question": "?", "task_id": "p7"}, {"question": "!"})
    tasks = sent(file, RunPlan("v2"))
    assert [task.task_id for task in tasks] == ["v2/000001", "v2/p7", "v2/000004"]
    assert {task.run for task in tasks} == {"v2"}
    assert [task.seed for task in tasks] == [None] * 3
    assert next(task.task_id for task in sent(file, RunPlan("v3"))) == "v3/000001"


def test_a_document_s_tasks_are_numbered_since_they_share_lines(tmp_path: Path) -> None:
    file = written(tmp_path, [{"question": "a"}, {"question": "b"}], name="tasks.json")
    assert [task.task_id for task in sent(file, RunPlan("v2"))] == ["v2/000001", "v2/000002"]


def test_stdin_has_lines_too() -> None:
    stdin = BytesIO(b'"a"\n\n"b"\n')
    tasks = in_run(read_tasks("-", stdin), RunPlan("v2"))
    assert [each.task.task_id for each in tasks] == ["v2/000001", "v2/000003"]


def test_a_question_is_known_by_what_it_asks() -> None:
    one, same, other = (
        next(in_run([admit(question)], RunPlan("v2"))).task.task_id for question in ("a", "a", "b")
    )
    assert one == same == f"v2/q-{hashlib.sha256(b'a').hexdigest()[:16]}"
    assert other != one


def test_samples_are_a_group_and_each_has_a_seed(tmp_path: Path) -> None:
    file = written(tmp_path, {"question": "?", "task_id": "p7", "seed": 4}, '"hi"')
    tasks = sent(file, RunPlan("v2", 3))
    assert [(it.task_id, it.group_id, it.sample_index, it.group_size) for it in tasks] == [
        (f"v2/{own}/{index}", f"v2/{own}", index, 3)
        for own in ("p7", "000002")
        for index in range(3)
    ]
    seeds = [task.seed for task in tasks]
    assert seeds == [
        int(hashlib.sha256(it.task_id.encode()).hexdigest()[:8], 16) // 2 for it in tasks
    ]
    assert len(set(seeds)) == 6
    assert seeds == [task.seed for task in sent(file, RunPlan("v2", 3))]
    assert not {*seeds} & {task.seed for task in sent(file, RunPlan("v3", 3))}


def test_a_seed_that_was_worked_out_elsewhere() -> None:
    """``printf v2/p007/3 | sha256sum`` begins with 7506d15e."""
    assert seed_of("v2/p007/3") == 0x7506D15E // 2


def test_samples_may_keep_the_seed_of_their_task(tmp_path: Path) -> None:
    file = written(tmp_path, {"question": "?", "seed": 4}, '"hi"')
    tasks = sent(file, RunPlan("v2", 2, same_seed=True))
    assert [task.seed for task in tasks] == [4, 4, None, None]


def test_groups_are_their_run_s(tmp_path: Path) -> None:
    file = written(tmp_path, {"question": "?", "group_id": "g", "sample_index": 1})
    (task,) = sent(file, RunPlan("v2"))
    assert (task.group_id, task.sample_index) == ("v2/g", 1)


def test_a_file_that_names_the_run_has_its_ids_as_they_are(tmp_path: Path) -> None:
    own = {"question": "?", "run": "v2", "task_id": "v2/a", "group_id": "v2/g"}
    (task,) = sent(written(tmp_path, own), RunPlan("v2"))
    assert (task.task_id, task.group_id, task.run) == ("v2/a", "v2/g", "v2")


@pytest.mark.parametrize(
    ("task", "plan", "problem"),
    [
        ({"run": "v1", "task_id": "v1/a"}, RunPlan("v2"), "run: the task says 'v1', --run says"),
        ({"task_id": "a" * 254}, RunPlan("v2"), "task_id: with the run's name it would have 257"),
        ({"task_id": "a" * 252}, RunPlan("v2", 10), "would have 258"),
        ({"group_id": "g" * 255}, RunPlan("v2"), "group_id: with the run's name"),
        ({"group_id": "g"}, RunPlan("v2", 2), "group_id: --samples sets it"),
        ({"sample_index": 0}, RunPlan("v2", 2), "sample_index: --samples sets it"),
        ({"run": "v2", "task_id": "v20/a"}, RunPlan("v2"), "an id in run 'v2' begins with 'v2/'"),
    ],
)
def test_what_does_not_fit_is_refused_before_anything_is_sent(
    tmp_path: Path, task: dict[str, Any], plan: RunPlan, problem: str
) -> None:
    file = written(tmp_path, '"hi"', {"question": "?", **task})
    with pytest.raises(ConfigError) as error:
        sent(file, plan)
    assert problem in str(error.value)
    assert "tasks.jsonl:2" in str(error.value)


@pytest.mark.parametrize(
    "lines", [('"hi"', {"task_id": "000001"}), ({"task_id": "000002"}, '"hi"')]
)
def test_an_id_that_is_another_task_s_line_is_refused(tmp_path: Path, lines: Any) -> None:
    """The store would treat the second task as a duplicate."""
    with pytest.raises(ConfigError, match="give each task an id, or none") as error:
        sent(written(tmp_path, *lines), RunPlan("v2"))
    assert "tasks.jsonl:2: task_id: '00000" in str(error.value)
    assert "in line 1" in str(error.value)


def test_ids_of_digits_are_ids(tmp_path: Path) -> None:
    file = written(tmp_path, *({"task_id": f"{n:06}"} for n in (2, 1, 3)))
    assert [it.task_id for it in sent(file, RunPlan("v2"))] == [f"v2/00000{n}" for n in (2, 1, 3)]


def test_no_sender_sets_a_run_beside_another_id() -> None:
    with pytest.raises(TaskError, match="an id in run 'v2' begins with 'v2/'; got 'p7'"):
        admit({"question": "?", "run": "v2", "task_id": "p7"})
    admitted = admit({"question": "?", "run": "v2"})
    assert admitted.task.task_id.startswith("v2/")
    assert len(admitted.task.task_id) > len("v2/")


def test_a_random_part_is_the_same_each_time_and_in_order(tmp_path: Path) -> None:
    lines = [{"question": "?", "task_id": f"t{n}"} for n in range(50)]

    def part(tasks: Any, size: int, seed: int) -> list[str]:
        read = read_tasks(written(tmp_path, *tasks), BytesIO())
        return [key_of(each) for each in random_part(read, size, seed)]

    ten = part(lines, 10, 7)
    assert len(ten) == 10
    assert ten == sorted(ten, key=lambda key: int(key[1:])) == part(lines, 10, 7)
    assert ten != part(lines, 10, 8)
    assert {*part(lines[::-1], 10, 7)} == {*ten}
    assert len({*part([*lines, {"question": "?", "task_id": "new"}], 10, 7)} - {*ten}) <= 1
    assert part(lines, 99, 7) == [task["task_id"] for task in lines]
    assert len({key for seed in range(40) for key in part(lines, 10, seed)}) > 45


def test_samples_share_their_task_and_its_payload_until_they_are_offered() -> None:
    admitted = admit({"question": "x" * 1_000, "task_id": "p7", "metadata": {"k": 1}})
    samples = list(in_run([admitted], RunPlan("v2", samples=3)))
    assert all(each.encoded is admitted.encoded for each in samples)
    for index, each in enumerate(samples):
        offer = each.offer("f" * 16)
        assert Task.decode(json.loads(offer.payload)) == each.task.changed(config_hash="f" * 16)
        assert (offer.task_id, offer.group_id) == (f"v2/p7/{index}", "v2/p7")
        assert each.task.sample_index == index


def test_what_a_run_adds_may_not_make_a_task_too_large() -> None:
    plan = RunPlan("v2")
    admitted = admit({"question": "x" * (MAX_TASK_BYTES - 40)}, TaskRules(plan=plan))
    (planned,) = in_run([admitted], plan)
    with pytest.raises(TaskError, match=r"bytes, 10,485,760 are allowed"):
        planned.offer("")

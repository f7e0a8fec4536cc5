"""``agentpipe report`` of a real stream."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.integration.project import Project

pytestmark = pytest.mark.process
HOSTILE = "[bold]\x1b[2Jboo"


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

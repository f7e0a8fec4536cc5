"""`check FOLDER` and `init --from-mcp-universe` read an untrusted folder without running code."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.project import Done, Project

SECRET = "canary-of-the-user-4711"
TASK = json.dumps({"question": "q", "evaluators": [{"func": "judge:f"}]})
AGENT = "kind: agent\nspec: {{name: {name}, type: python, config: {{class: '{place}'}}}}\n"
COLLECTION = "kind: collection\nspec: {name: c, config: agent.yaml, isolation: process}\n"
LLM = "kind: llm\nspec: {name: l, type: openai, config: {model_name: m}}\n---\n"
REACT = "kind: agent\nspec: {name: a, type: react, config: {llm: l, system_prompt: p.j2}}\n---\n"
BENCH = "kind: benchmark\nspec: {description: d, agent: a, tasks: [t.json]}\n"
CLASS = "class A:\n    def execute(self, task, context): ...\ndef f(answer): ...\n"


@pytest.fixture
def strange(project: Project) -> Path:
    """A folder with Python modules at all places that its files name; an import leaves a trace."""
    folder = project.folder / "strange"
    (folder / "package").mkdir(parents=True)
    seen = f"open({str(project.folder / 'was_run')!r}, 'a').write(__name__ + chr(10))\n"
    for name in ("agent.py", "judge.py", "package/__init__.py", "package/inner.py"):
        (folder / name).write_text(seen + CLASS)
    for name, place in (
        ("agent", "agent.py:A"),
        ("other", "package.inner:A"),
        ("third", "agent:A"),
    ):
        (folder / f"{name}.yaml").write_text(AGENT.format(name=name, place=place))
    (folder / "collection.yaml").write_text(COLLECTION)
    (folder / "task.json").write_text(TASK)
    (folder / "bench.yaml").write_text(LLM + REACT + BENCH)
    (folder / "t.json").write_text(TASK)
    (folder / "p.j2").write_text("You are {{ ''.__class__ }}.")
    return folder


def ran(project: Project) -> list[str]:
    """The names of modules that were imported."""
    file = project.folder / "was_run"
    return file.read_text().split() if file.exists() else []


def check(project: Project, *more: str) -> Done:
    return project.run("check", "strange", "--json", *more)


@pytest.mark.usefixtures("strange")
def test_check_runs_no_python_of_a_folder_unless_it_is_told_to(project: Project) -> None:
    done = check(project)
    assert (done.code, done.json["problems"]) == (0, [])
    assert len(done.json["files"]) == 7
    assert project.ok("check", "strange/agent.yaml", "strange/collection.yaml").code == 0
    assert ran(project) == []
    assert check(project, "--run-code").code == 0
    assert {name.partition("_")[0] for name in ran(project)} >= {
        "agent",
        "package",
        "package.inner",
    }


@pytest.mark.usefixtures("strange")
def test_init_copies_a_folder_and_runs_none_of_its_python(project: Project) -> None:
    made = project.ok("init", "mine", "--from-mcp-universe", "strange", "--json").json
    assert {"agent.yaml", "agent.py", "package/inner.py", "p.j2"} <= set(made["files"])
    assert ran(project) == []
    project.ok("init", "again", "--from-mcp-universe", "strange", "--run-code")
    assert ran(project) != []


def test_what_can_be_seen_without_running_it_is_still_checked(
    project: Project, strange: Path
) -> None:
    (strange / "other.yaml").write_text(AGENT.format(name="other", place="agent.py:Agent"))
    (strange / "third.yaml").write_text(AGENT.format(name="third", place="nowhere:A"))
    done = check(project)
    said = {each["file"]: each["message"] for each in done.json["problems"]}
    assert (done.code, set(said)) == (2, {"strange/other.yaml", "strange/third.yaml"})
    assert "agent.py has no 'Agent'" in said["strange/other.yaml"]
    assert "no module 'nowhere'" in said["strange/third.yaml"]
    assert ran(project) == []


LINKS = {
    "data.json": "secret.json",
    "deep": "private",
    "config.yaml": "secret.json",
    "p.j2": "secret.json",
    "t.json": "secret.json",
    "judge.json": "nothing-there",
    "agent.py": "secret.json",
}
ONLY_COPIED = {"p.j2", "agent.py"}


@pytest.mark.parametrize(
    ("name", "relative"),
    [*((name, False) for name in LINKS), ("data.json", True), ("deep", True)],
)
def test_a_link_that_leads_out_of_the_folder_is_named_and_not_followed(
    project: Project, strange: Path, name: str, *, relative: bool
) -> None:
    (project.folder / "private").mkdir()
    for place in ("secret.json", "private/deep.json"):
        (project.folder / place).write_text(json.dumps({"question": SECRET, "seed": SECRET}))
    (strange / name).unlink(missing_ok=True)
    target = LINKS[name]
    (strange / name).symlink_to(f"../{target}" if relative else project.folder / target)
    checked = check(project)
    made = project.run("init", "mine", "--from-mcp-universe", "strange")
    message = f"strange/{name}: a link that leads out of the folder is not followed"
    assert made.code == 2
    assert message in made.err
    if name not in ONLY_COPIED:
        assert checked.code == 2
        places = {each["file"] for each in checked.json["problems"]}
        assert f"strange/{name}" in places
    assert not (project.folder / "mine").exists()
    assert SECRET not in checked.out + checked.err + made.out + made.err


@pytest.mark.usefixtures("strange")
def test_a_link_within_the_folder_is_as_good_as_a_file(project: Project, strange: Path) -> None:
    (strange / "again").symlink_to("package")
    (strange / "prompts").symlink_to(strange / "package")
    (strange / "other.json").symlink_to("task.json")
    assert check(project).code == 0
    project.ok("init", "mine", "--from-mcp-universe", "strange")


def bomb(link: str) -> str:
    return "a0: &a0 {x: 1}\n" + "".join(
        f"a{n + 1}: &a{n + 1} {link % ', '.join([f'*a{n}'] * 9)}\n" for n in range(9)
    )


HOSTILE = {
    "aliases": bomb("[%s]"),
    "merges": bomb("{<<: [%s]}"),
    "itself": "a: &a\n  <<: *a\n",
    "tag": "kind: !!python/object/apply:os.system ['touch was_run']\n",
    "deep": "[" * 1_000_000,
    "deeper": "{a: " * 250_000,
    "many": "- a\n" * 1_000_000,
    "huge": "#" * (10 * 1024 * 1024 + 1),
    "digits": "a: " + "1" * 1_000_000,
    "pipe": "kind: collection\nspec:\n  name: p\n  config: agent.yaml\n"
    "  context: [{env: {A: '${file:%s}'}}]\n",
}


@pytest.mark.long
def test_hostile_yaml_is_refused_and_the_rest_is_still_read(
    project: Project, strange: Path
) -> None:
    os.mkfifo(strange / "waits")
    os.mkfifo(strange / "waits.yaml")
    for name, text in HOSTILE.items():
        (strange / f"{name}.yaml").write_text(text.replace("%s", str(strange / "waits")))
    done = check(project)
    assert done.code == 2
    refused = {each["file"] for each in done.json["files"] if each["runs"] == "no"}
    assert refused == {f"strange/{name}.yaml" for name in (*HOSTILE, "waits")}
    assert done.json["totals"]["native"] == 6
    assert ran(project) == []

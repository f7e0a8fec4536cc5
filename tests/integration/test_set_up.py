"""Set-up errors: dead at once with every engine, and replayed after the fix."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.integration.project import Project

AGENTS = """
import os
import subprocess


class Built:
    def __init__(self):
        import extra

    async def execute(self, task, context):
        return "fine"


class Opened:
    async def open(self):
        import extra

    async def execute(self, task, context):
        return "fine"


class Running:
    async def execute(self, task, context):
        import extra
        return "fine"


class Wrapping:
    async def execute(self, task, context):
        try:
            import extra
        except ImportError as error:
            raise RuntimeError("cannot work") from error
        return "fine"


class Program:
    def execute(self, task, context):
        return subprocess.run([os.environ["HOME"] + "/program"], check=True) and "fine"


class Variable:
    def execute(self, task, context):
        return context.env["TOKEN"] and "fine"
"""
# The fix: a file and its content, or the context's env.
MENDED: dict[str, Any] = {
    "Built": ("extra.py", ""),
    "Opened": ("extra.py", ""),
    "Running": ("extra.py", ""),
    "Wrapping": ("extra.py", ""),
    "Program": ("program", "#!/bin/sh\n"),
    "Variable": {"TOKEN": "t"},
}


def _collections(project: Project, isolation: str, env: dict[str, str]) -> None:
    (project.folder / "collection.yaml").unlink(missing_ok=True)
    for kind in MENDED:
        project.collection(kind, f"./{kind}.yaml", isolation=isolation, context=[{"env": env}])


@pytest.mark.long
@pytest.mark.parametrize(
    "isolation", ["coroutine", pytest.param("process", marks=pytest.mark.long)]
)
def test_what_is_missing_is_a_dead_letter_at_once_and_replayed_once_it_is_there(
    project: Project, isolation: str
) -> None:
    project.write("needy.py", AGENTS)
    for kind in MENDED:
        agent = {"name": kind, "type": "python", "config": {"class": f"needy:{kind}"}}
        project.write(f"{kind}.yaml", yaml.safe_dump({"kind": "agent", "spec": agent}))
    _collections(project, isolation, {"NAME": "x"})
    for kind in MENDED:
        project.send({"question": "?", "task_id": kind}, to=kind)
    project.burst("--processes", "1")
    for kind, result in project.by_id().items():
        assert (result["outcome"], result["attempt"]) == ("infra_error", 1), (kind, result)
        assert result["error"]["permanent"] is True
    assert project.stats()["dead"] == len(MENDED)
    for each in MENDED.values():
        if isinstance(each, tuple):
            project.write(*each).chmod(0o755)
    _collections(project, isolation, MENDED["Variable"])
    project.ok("dead", "replay", "--all", "--yes")
    project.burst("--processes", "1")
    again = [result for result in project.results() if result["replay_of"]]
    assert [result["outcome"] for result in again] == ["ok"] * len(MENDED)

"""The documents' notebook and web service run with a real worker."""

from __future__ import annotations

import ast
import asyncio
import inspect
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx2
import pytest

from tests.support import wait_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.integration.project import Fleet, Project

EXAMPLES = Path(__file__).parents[2] / "docs" / "examples"
ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0


@pytest.fixture
def clone(project: Project, monkeypatch: pytest.MonkeyPatch) -> Project:
    """A folder with the needed files of a clone, as the current folder."""
    for name in ("configs", "actors"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(ROOT / name, project.folder / name, ignore=ignored)
    project.environ["AGENT_COLLECTION_CONFIG_FILE"] = str(project.folder / "configs" / "echo.yaml")
    monkeypatch.chdir(project.folder)
    return project


def cells() -> list[str]:
    notebook = json.loads((EXAMPLES / "notebook.ipynb").read_text())
    return ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]


async def run_cell(source: str, names: dict[str, Any]) -> Any:
    """Run a cell as Jupyter does, in the running loop and with ``await``; return its value."""
    *body, last = ast.parse(source).body
    if not isinstance(last, ast.Expr):
        body, last = [*body, last], ast.Expr(ast.Constant(None))
    flags = ast.PyCF_ALLOW_TOP_LEVEL_AWAIT
    shown = None
    for tree in (ast.Module(body, []), ast.Expression(last.value)):
        mode = "exec" if isinstance(tree, ast.Module) else "eval"
        code = compile(ast.fix_missing_locations(tree), "cell", mode, flags=flags)
        shown = eval(code, names)
        if inspect.iscoroutine(shown):
            shown = await shown
    return shown


@pytest.mark.long
def test_the_notebook_runs_in_a_loop(clone: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(os.environ):
        if name.startswith("AGENT"):
            monkeypatch.delenv(name)
    for name, value in clone.environ.items():
        monkeypatch.setenv(name, value)

    async def main() -> list[Any]:
        names: dict[str, Any] = {"__name__": "__main__"}
        try:
            return [await run_cell(source, names) for source in cells()]
        finally:
            names["worker"].kill()
            names["worker"].wait()

    shown = asyncio.run(main())
    assert shown[2:] == [("ok", "2 and 2?"), 100, 101, ("7?", 101), 0]


@pytest.fixture
def service(clone: Project) -> Iterator[str]:
    """The address of the web service, run by uvicorn."""
    log = clone.folder / "web.log"
    command = ["-m", "uvicorn", "--port", "0", "--app-dir", str(EXAMPLES), "web:app"]
    with log.open("wb") as stream:
        process = subprocess.Popen(
            [sys.executable, *command], env=clone.environ, stdout=stream, stderr=stream
        )
    try:
        serves = re.compile(r"running on (http://\S+)")
        wait_until(lambda: serves.search(log.read_text()), PATIENCE_S, "it serves")
        yield serves.findall(log.read_text())[0]
        process.terminate()
        process.wait(PATIENCE_S)
        assert "Traceback" not in log.read_text(), log.read_text()
    finally:
        process.kill()
        process.wait()


async def ask(url: str, number: int, fleet: Fleet) -> list[httpx2.Response]:
    """Send ``number`` questions at once, and kill a worker after the first answer."""
    limits = httpx2.Limits(max_connections=number)
    async with httpx2.AsyncClient(base_url=url, timeout=PATIENCE_S, limits=limits) as client:
        asked = [
            asyncio.create_task(client.post("/ask/echo?wait_s=100", json={"question": f"{n}?"}))
            for n in range(number)
        ]
        await asyncio.wait(asked, return_when=asyncio.FIRST_COMPLETED)
        os.kill(min(fleet.pids), signal.SIGKILL)
        return await asyncio.gather(*asked)


@pytest.mark.long
def test_the_web_service_answers_while_a_worker_is_killed(clone: Project, service: str) -> None:
    fleet = clone.work("--processes", "2").ready(2)
    answers = asyncio.run(ask(service, 60, fleet))
    assert [each.status_code for each in answers] == [200] * 60
    assert [each.json()["answer"] for each in answers] == [f"{n}?" for n in range(60)]
    known = answers[7].json()["task_id"]
    assert httpx2.get(f"{service}/results/{known}?wait_s=60").json()["answer"] == "7?"
    assert fleet.stop() == 0


@pytest.mark.long
def test_the_web_service_answers_with_an_id_what_is_not_done_in_time(
    clone: Project, service: str
) -> None:
    asked = httpx2.post(f"{service}/ask/echo?wait_s=0.01", json={"question": "late?"})
    assert (asked.status_code, asked.json()["outcome"]) == (202, None)
    clone.burst("--processes", "1")
    found = httpx2.get(f"{service}/results/{asked.json()['task_id']}?wait_s=60", timeout=PATIENCE_S)
    assert (found.status_code, found.json()["answer"]) == (200, "late?")
    assert httpx2.post(f"{service}/ask/nobody", json={"question": "?"}).status_code == 404
    wrong = httpx2.post(f"{service}/ask/echo", json={"question": 7})
    assert wrong.status_code == 422
    assert "question" in wrong.json()["error"]

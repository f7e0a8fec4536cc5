"""A folder whose name is not UTF-8 works like any other."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from agentpipe.cli import main

if TYPE_CHECKING:
    from pathlib import Path

AGENT = "kind: agent\nspec: {name: adder, type: python, config: {class: 'my.py:Adder'}}\n"
CLASS = """\
class Adder:
    async def execute(self, task, context):
        return task.question


def is_short(answer):
    return len(answer) < 9
"""
COLLECTION = """\
kind: collection
spec: {name: adder, config: agent.yaml}
---
kind: collection
spec: {name: apart, config: agent.yaml, isolation: process}
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    folder.mkdir()
    monkeypatch.chdir(folder)
    (folder / "my.py").write_text(CLASS)
    (folder / "agent.yaml").write_text(AGENT)
    (folder / "collection.yaml").write_text(COLLECTION)
    return folder


def test_its_collections_are_checked_sent_and_shown(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["check"]) == 0
    assert main(["send", "adder", "q", "--run", "v1"]) == 0
    assert main(["send", "adder", "again"]) == 0
    capsys.readouterr()
    assert main(["status", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["accepted"], found["waiting"]) == (2, 2)
    assert main(["runs", "show", "v1"]) == 0
    assert main(["why", "--run", "v1"]) == 0
    assert main(["rebalance", "adder"]) == 0


@pytest.mark.parametrize("collection", ["adder", "apart"])
def test_its_agents_and_functions_run(folder: Path, collection: str) -> None:
    task = {"question": "q", "evaluators": [{"func": "my.py:is_short"}]}
    (folder / "task.json").write_text(json.dumps(task))
    done = subprocess.run(
        [sys.executable, "-m", "agentpipe", "try", collection, "--task", "task.json", "--json"],
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    found = json.loads(done.stdout)
    assert (found["result"], found["reward"]) == ("q", 1.0)

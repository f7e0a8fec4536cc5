"""An id is shown in a form that can be entered again, even with a line break."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from agentpipe.cli import main

if TYPE_CHECKING:
    from pathlib import Path

    import pytest

AGENT = "kind: agent\nspec: {name: adder, type: command, config: {command: ['true']}}\n"
COLLECTION = "kind: collection\nspec: {name: adder, config: agent.yaml}\n"
ID = "a\nb"


def test_an_id_is_shown_with_its_line_break(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "collection.yaml").write_text(COLLECTION)
    (tmp_path / "tasks.jsonl").write_text(json.dumps({"task_id": ID, "question": "q"}))
    assert main(["send", "adder", "--file", "tasks.jsonl"]) == 0
    assert main(["why", ID]) == 0
    assert "\na\\nb: waiting" in capsys.readouterr().out
    assert main(["cancel", ID]) == 0
    assert main(["tail", "--from", "beginning", "--timeout", "0"]) == 0
    assert " a\\nb adder_0\n" in capsys.readouterr().out

"""Tasks of agents that a collection no longer has are reported before the new file is used."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest

from agentpipe.cli import main

AGENT = (
    "kind: agent\nspec: {name: adder, type: command, is_main: true, config: {command: ['true']}}\n"
)
SAID = "2 tasks wait with agents that adder no longer has (adder_2, adder_3)"


def rewrite(number: int, age_s: float) -> None:
    file = Path("collection.yaml")
    file.write_text(
        f"kind: collection\nspec: {{name: adder, config: agent.yaml, number: {number}}}\n"
    )
    changed = time.time() - age_s
    os.utime(file, (changed, changed))


@pytest.fixture(autouse=True)
def shrunk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text(AGENT)
    lines = [json.dumps({"task_id": f"t{n}", "question": "q"}) for n in range(4)]
    (tmp_path / "tasks.jsonl").write_text("\n".join(lines))
    rewrite(4, age_s=9)
    assert main(["send", "adder", "--file", "tasks.jsonl"]) == 0
    rewrite(2, age_s=0)


def test_check_tells_of_them_before_any_sender_or_worker(
    capsys: pytest.CaptureFixture[str],
) -> None:
    capsys.readouterr()
    main(["check"])
    assert SAID in capsys.readouterr().err


def test_an_invalid_file_is_not_compared(capsys: pytest.CaptureFixture[str]) -> None:
    file = Path("collection.yaml")
    file.write_text(file.read_text().replace("number", "numbr"))
    capsys.readouterr()
    assert main(["check"]) == 2
    out, err = capsys.readouterr()
    assert "did you mean 'number'?" in out
    assert "no longer has" not in out + err


def test_an_outdated_file_removes_no_agents(capsys: pytest.CaptureFixture[str]) -> None:
    rewrite(2, age_s=99)
    capsys.readouterr()
    main(["check"])
    said = capsys.readouterr().err
    assert "is older than" in said
    assert "no longer has" not in said


def test_why_names_the_remedy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["send", "adder", "more"]) == 0
    capsys.readouterr()
    assert main(["why", "t0", "t1", "t2", "t3"]) == 0
    said = capsys.readouterr().out
    assert said.count("adder no longer has this agent") == 2
    assert said.count("next: agentpipe rebalance adder moves its tasks") == 2

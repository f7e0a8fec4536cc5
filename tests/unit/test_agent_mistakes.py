"""A mistake in an agent config is reported with the line of its key and a short path."""

from __future__ import annotations

from pathlib import Path

import pytest

from agentpipe.config.agent_config import load_agent_config
from agentpipe.engines.base import open_engine
from agentpipe.errors import ConfigError
from agentpipe.operations.project.survey import survey

OWN = """\
# A comment.
kind: agent
spec:
  name: a
  type: llm
  config:
    model: "openai:m"
    max_iterations: 5
    temperature: 1
    servers:
      - name: time
      - name: calculator
"""
THEIRS = """\
kind: agent
spec:
  name: a
  type: basic
  config:
    max_iterations: 5
    llm: l
---
kind: llm
spec:
  name: l
  type: openai
  config:
    model_name: m
    timeout: 5
    max_completion_tokens: 9
"""
COMMAND = """\
kind: agent
spec:
  name: a
  type: command
  config:
    argv: [sh]
    pass_env: [PATH]
"""
PYTHON = """\
kind: agent
spec:
  name: a
  type: python
  config:
    unit: x
    class: toy.py:Toy
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").mkdir()
    (tmp_path / "toy.py").write_text(
        "class Toy:\n    def __init__(self, unit=1): ...\n    def execute(self, t, c): ...\n"
    )
    return tmp_path


def told(text: str) -> list[str]:
    """The mistakes, as the engine and `check` report them."""
    file = Path("configs/agent.yaml")
    file.write_text(text)
    with pytest.raises(ConfigError) as caught:
        open_engine(load_agent_config(file.absolute()))
    said = [str(problem) for problem in caught.value.problems]
    (surveyed,) = survey([file], {}, run_code=True)
    assert surveyed.reasons == said
    return said


@pytest.mark.parametrize(
    ("text", "old", "new", "line"),
    [
        (OWN, "max_iterations: 5", "max_iterations: none", 8),
        (OWN, "max_iterations: 5", "max_iteration: 5", 8),
        (OWN, "temperature: 1", "temperature: hot", 9),
        (OWN, '"openai:m"', "m", 7),
        (OWN, '"openai:m"', '"opnai:m"', 7),
        (OWN, '    model: "openai:m"\n', "", 6),
        (OWN, "name: calculator", "name: calculater", 12),
        (OWN, "type: llm", "type: lmm", 5),
        (THEIRS, "max_iterations: 5", "max_iterations: none", 6),
        (THEIRS, "timeout: 5", "timeout: soon", 15),
        (THEIRS, "max_completion_tokens: 9", "max_completion_tokens: many", 16),
        (COMMAND, "argv: [sh]", "argv: [no-such-program]", 6),
        (COMMAND, "pass_env: [PATH]", "pass_env: PATH", 7),
        (COMMAND, "pass_env: [PATH]", "pas_env: [PATH]", 7),
        (PYTHON, "toy.py:Toy", "toy.py:Tyo", 7),
        (PYTHON, "unit: x", "unti: x", 6),
        (PYTHON, "    class: toy.py:Toy\n", "", 5),
    ],
)
def test_with_the_line_of_its_key(text: str, old: str, new: str, line: int) -> None:
    (said,) = told(text.replace(old, new))
    assert said.startswith(f"configs/agent.yaml:{line}: ")


def test_each_with_its_own() -> None:
    text = OWN.replace("iterations: 5", "iterations: x").replace("temperature: 1", "top_p: x")
    assert [each.partition(": ")[0] for each in told(text)] == [
        f"configs/agent.yaml:{line}" for line in (8, 9)
    ]


@pytest.mark.parametrize("value", ["[a]", "{a: b}"])
def test_a_list_is_not_to_be_quoted(value: str) -> None:
    Path("agent.yaml").write_text(OWN.replace("name: a\n", f"name: {value}\n"))
    with pytest.raises(ConfigError) as caught:
        load_agent_config("agent.yaml")
    assert "quotes" not in str(caught.value)
    assert "write one value" in str(caught.value)


@pytest.mark.parametrize(
    ("text", "line"),
    [("kind: agent\n\tspec: x\n", 2), ("\tkind: agent\n", 1), ("a:\n  - b\n\t- c\n", 3)],
)
def test_a_tab_is_named(text: str, line: int) -> None:
    Path("agent.yaml").write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_agent_config("agent.yaml")
    said = f"agent.yaml:{line}: not YAML: a tab before the text: indent with spaces"
    assert str(caught.value) == said

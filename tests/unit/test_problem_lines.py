"""Each mistake in a file is reported with the line of its key."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from agentpipe.cli import main

if TYPE_CHECKING:
    from pathlib import Path

AGENT = """
kind: agent
spec: {name: adder, type: command, config: {argv: ["true"]}}
"""
# The inserted key is on line 8.
COLLECTION = """
kind: collection
spec:
  name: adder
  config: agent.yaml

  number: 2
  %s
"""


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("user: nobody-of-that-name", "user: no user"),
        ("user: 0", "user: '0' has all rights"),
        ("engine: mcpuniverse", "engine: an agent of type 'command' has its own"),
        ("concurrency: -1", "spec.concurrency"),
        ("schedule: [{cron: '* * * * *', tasks: none.jsonl}]", "spec.schedule[0].tasks"),
        ("context: [{env: {A: '${NOT_SET_ANYWHERE}'}}]", "env A"),
        ("servers: [nowhere]", "servers"),
    ],
)
def test_the_line_is_that_of_the_key(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    key: str,
    said: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "agent.yaml").write_text(AGENT)
    (tmp_path / "collection.yaml").write_text(COLLECTION % key)
    assert main(["check"]) == 2
    told = [line for line in "".join(capsys.readouterr()).splitlines() if said in line]
    assert [line.split(": ")[0] for line in told] == ["collection.yaml:8"]

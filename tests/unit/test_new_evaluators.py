"""Files of evaluators with which stored answers are judged again."""

from __future__ import annotations

import json
from io import BytesIO
from typing import TYPE_CHECKING

import pytest

from agentpipe.config.task_rules import NO_RULES
from agentpipe.errors import ConfigError
from agentpipe.operations.new_evaluators import read_evaluators

if TYPE_CHECKING:
    from pathlib import Path


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("none.json", "[]"),
        ("none.jsonl", "\n"),
        ("none.json", '{"evaluators": []}'),
        ("none.jsonl", '{"question": "?", "task_id": "a"}\n'),
    ],
)
def test_a_file_without_evaluators_begins_no_run(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"{name}: "):
        read_evaluators(path, NO_RULES, BytesIO())


def test_a_task_without_evaluators_has_none_in_the_file(tmp_path: Path) -> None:
    """Regression: its answer was judged by nothing, and counted as judged."""
    path = tmp_path / "some.jsonl"
    lines = [{"task_id": "a"}, {"task_id": "b", "evaluators": [{"func": "raw"}]}]
    path.write_text("".join(json.dumps(each) + "\n" for each in lines))
    evaluators = read_evaluators(path, NO_RULES, BytesIO())
    assert (evaluators.of("a"), evaluators.of("b")) == (None, [{"func": "raw"}])

"""Files of evaluators with which stored answers are judged again."""

from __future__ import annotations

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
    [("none.json", "[]"), ("none.jsonl", "\n"), ("none.json", '{"evaluators": []}')],
)
def test_a_file_without_evaluators_begins_no_run(tmp_path: Path, name: str, content: str) -> None:
    path = tmp_path / name
    path.write_text(content)
    with pytest.raises(ConfigError, match=f"{name}: "):
        read_evaluators(path, NO_RULES, BytesIO())

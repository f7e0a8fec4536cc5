"""A key that is in one object twice is refused, with its line, in every file that users write.

Readers of JSON silently keep the last of two, so a file that two people edited would lose a part.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import pytest

from agentpipe.compat.pipeline import _task_data
from agentpipe.config.mcp_servers import read_list
from agentpipe.config.task_rules import NO_RULES
from agentpipe.config.yaml_source import load_documents
from agentpipe.errors import AgentpipeError
from agentpipe.operations.new_evaluators import read_evaluators
from agentpipe.operations.read_tasks import read_tasks

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

NOTHING = io.BytesIO()


def read_new_evaluators(path: Path) -> Any:
    return read_evaluators(path, NO_RULES, NOTHING)


def read_task_file(path: Path) -> Any:
    return list(read_tasks(str(path), NOTHING, NO_RULES))


SERVER = '{"stdio": {"command": "python3"}}'
READERS: list[tuple[Callable[[Path], Any], str, str, str]] = [
    (load_documents, "x.yaml", "a: 1\nb: 2\na: 3\n", "x.yaml:3: "),
    (read_task_file, "x.json", '{"question": "a",\n"question": "b"}', "x.json:2: "),
    (read_task_file, "x.jsonl", '\n{"question": "a", "question": "b"}', "x.jsonl:2: "),
    (read_list, "x.json", f'{{"one": {SERVER},\n"one": {SERVER}}}', "x.json:2: "),
    (read_list, "x.json", f'{{"mcpServers": {{\n"a": {SERVER},\n"a": {SERVER}}}}}', "x.json:3: "),
    (read_list, "x.json", '{"a": {\n"env": {"K": "1",\n"K": "2"}}}', "x.json:3: "),
    (read_new_evaluators, "x.json", '[\n{"func": "raw",\n"func": "json"}]', "x.json:3: "),
    (read_new_evaluators, "x.yaml", "- func: raw\n  func: json\n", "x.yaml:2: "),
    (_task_data, "x.json", '{"question": "a",\n"question": "b"}', "x.json:2: "),
]


@pytest.mark.parametrize(("reader", "name", "text", "place"), READERS)
def test_a_key_that_is_there_twice_is_refused_with_its_line(
    tmp_path: Path, reader: Callable[[Path], Any], name: str, text: str, place: str
) -> None:
    path = tmp_path / name
    path.write_text(text)
    with pytest.raises(AgentpipeError, match=f"{place}.*duplicate key"):
        reader(path)

"""An export holds only a few results in memory, however many there are."""

from __future__ import annotations

import tracemalloc
from typing import TYPE_CHECKING

import pytest

from agentpipe.archive.export.formats import FORMATS, Options
from agentpipe.core.result import Result

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NUMBER, CHARS = 60, 250_000
AT_ONCE = 30


def found() -> Iterator[Result]:
    """Results of 500 KB each, all different."""
    for number in range(NUMBER):
        text = f"{number} ".ljust(CHARS, "x")
        asked = {"type": "agent", "messages": [text]}
        trace = [{"id": "r", "parent_id": "r", "records": [{"data": asked}]}]
        yield Result(task_id=f"t-{number}", result=text, reward=1.0, trace=trace)


@pytest.mark.parametrize("name", sorted(set(FORMATS) - {"parquet"}))
def test_memory_does_not_grow_with_the_number_of_results(name: str, tmp_path: Path) -> None:
    tracemalloc.start()
    try:
        with (tmp_path / "out").open("wb") as file:
            assert FORMATS[name].write(found, file, Options()) == (NUMBER, 0)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < AT_ONCE * CHARS

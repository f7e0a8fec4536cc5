"""JSON lines: one flat object per result."""

from __future__ import annotations

from typing import TYPE_CHECKING

from agentpipe.archive.export.columns import json_line

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from typing import BinaryIO

    from agentpipe.archive.export.columns import ExportColumn
    from agentpipe.core.result import Result


def write_jsonl(results: Iterable[Result], file: BinaryIO, columns: Sequence[ExportColumn]) -> int:
    """Write one line per Result, consumed one by one; returns the number of lines."""
    written = 0
    for result in results:
        file.write(json_line(result, columns))
        written += 1
    return written

"""Parquet, written by pyarrow: types depend on the columns only, not on the results."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.archive.export.columns import COLUMNS_VERSION, moment_of, row
from agentpipe.core.distribution import needs_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from typing import BinaryIO

    from agentpipe.archive.export.columns import ExportColumn, Row
    from agentpipe.core.result import Result

# Writers and readers hold a complete row group in memory.
GROUP_ROWS = 10_000
GROUP_CHARS = 32 * 1024 * 1024


def write_parquet(
    results: Iterable[Result], file: BinaryIO, columns: Sequence[ExportColumn]
) -> int:
    """Write the results in row groups; returns their number.

    Raises:
        MissingExtra: pyarrow is not installed.
    """
    arrow, parquet = _pyarrow()
    schema = _schema(arrow, columns)
    written = 0
    with parquet.ParquetWriter(file, schema, compression="zstd") as writer:
        for group in _groups(row(each, columns) for each in results):
            writer.write_table(_table(arrow, group, schema, columns))
            written += len(group)
    return written


def _pyarrow() -> tuple[Any, Any]:
    with needs_extra("Parquet needs pyarrow", "parquet"):
        import pyarrow as pa
        from pyarrow import parquet
    return pa, parquet


def _schema(arrow: Any, columns: Sequence[ExportColumn]) -> Any:
    types = {
        "string": arrow.string(),
        "json": arrow.string(),
        "integer": arrow.int64(),
        "number": arrow.float64(),
        "boolean": arrow.bool_(),
        "time": arrow.timestamp("us", tz="UTC"),
    }
    fields = [arrow.field(each.name, types[each.kind]) for each in columns]
    return arrow.schema(fields, {"agentpipe.columns": str(COLUMNS_VERSION)})


def _groups(rows: Iterable[Row]) -> Iterator[list[Row]]:
    group: list[Row] = []
    chars = 0
    for each in rows:
        group.append(each)
        chars += sum(len(value) for value in each.values() if isinstance(value, str))
        if len(group) >= GROUP_ROWS or chars >= GROUP_CHARS:
            yield group
            group, chars = [], 0
    if group:
        yield group


def _table(arrow: Any, group: list[Row], schema: Any, columns: Sequence[ExportColumn]) -> Any:
    values = {each.name: [line[each.name] for line in group] for each in columns}
    for each in columns:
        if each.kind == "time":
            values[each.name] = [moment_of(text) for text in values[each.name]]  # type: ignore[misc]  # a column changes its type
    return arrow.table(values, schema=schema)

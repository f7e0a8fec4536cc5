"""Frames: results as a pandas DataFrame, with the same columns as every other format."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from agentpipe.archive.export.columns import row
from agentpipe.core.distribution import needs_extra

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from agentpipe.archive.export.columns import ExportColumn
    from agentpipe.core.result import Result

_DTYPES = {
    "string": "string",
    "json": "string",
    "integer": "Int64",
    "number": "float64",
    "boolean": "boolean",
}


def frame_of(results: Iterable[Result], columns: Sequence[ExportColumn]) -> Any:
    """A ``pandas.DataFrame`` that holds all results.

    Raises:
        MissingExtra: pandas is not installed.
    """
    with needs_extra("a frame needs pandas", "pandas"):
        import pandas as pd
    values: dict[str, list[Any]] = {each.name: [] for each in columns}
    for result in results:
        for name, value in row(result, columns).items():
            values[name].append(value)
    return pd.DataFrame({each.name: _series(pd, values[each.name], each) for each in columns})


def _series(pd: Any, values: list[Any], column: ExportColumn) -> Any:
    if column.kind == "time":
        times = pd.to_datetime(pd.Series(values, dtype="object"), utc=True, errors="coerce")
        return times.astype("datetime64[us, UTC]")
    return pd.Series(values, dtype=_DTYPES[column.kind])

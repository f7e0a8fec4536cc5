"""The formats by name, and what each of them takes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from agentpipe.archive.export.columns import columns
from agentpipe.archive.export.csv_table import write_csv
from agentpipe.archive.export.jsonl import write_jsonl
from agentpipe.archive.export.parquet import write_parquet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from typing import BinaryIO

    from agentpipe.core.result import Result

    # Called again where a format reads them twice: no format holds all results.
    Find = Callable[[], Iterator[Result]]


@dataclass(frozen=True, slots=True)
class Options:
    """What a caller may choose.

    Attributes:
        trace: Whether the trace is a column.
        raw: See ``write_csv``.
    """

    trace: bool = True
    raw: bool = False


@dataclass(frozen=True, slots=True)
class Format:
    """One of them.

    Attributes:
        write: Writes what it finds, and returns the number of results.
        streams: Whether it can be written to a pipe, and read line by line.
        options: Those of ``Options`` that change something.
    """

    write: Callable[[Find, BinaryIO, Options], int]
    streams: bool
    options: frozenset[str]


def _jsonl(find: Find, file: BinaryIO, options: Options) -> int:
    return write_jsonl(find(), file, columns(trace=options.trace))


def _csv(find: Find, file: BinaryIO, options: Options) -> int:
    return write_csv(find(), file, columns(trace=options.trace), raw=options.raw)


def _parquet(find: Find, file: BinaryIO, options: Options) -> int:
    return write_parquet(find(), file, columns(trace=options.trace))


FORMATS = {
    "jsonl": Format(_jsonl, True, frozenset({"trace"})),
    "csv": Format(_csv, True, frozenset({"trace", "raw"})),
    "parquet": Format(_parquet, False, frozenset({"trace"})),
}
